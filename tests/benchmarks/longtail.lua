-- Requests random lines of a file: wrk ... --script longtail.lua URL -- FILE SEED
local requests = {}

init = function(arguments)
  for line in io.lines(arguments[1]) do
    requests[#requests + 1] = wrk.format("GET", line)
  end
  math.randomseed(tonumber(arguments[2]))
end

request = function()
  return requests[math.random(#requests)]
end

-- As summary.lua, with the median.
done = function(summary, latency, _)
  local errors = summary.errors
  io.write(string.format(
    "SUMMARY %d %d %d %.1f %.1f\n",
    summary.requests, summary.duration,
    errors.status + errors.connect + errors.read + errors.write + errors.timeout,
    latency:percentile(50), latency:percentile(99)))
end
