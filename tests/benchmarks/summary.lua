-- wrk calls this at the end; one line that a program can read. Latencies are in microseconds.
done = function(summary, latency, _)
  local errors = summary.errors
  io.write(string.format(
    "SUMMARY %d %d %d %d %d %.1f %.1f\n",
    summary.requests, summary.duration, errors.status,
    errors.connect + errors.read + errors.write, errors.timeout,
    latency:percentile(50), latency:percentile(99)))
end
