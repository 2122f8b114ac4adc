# Fastly VCL: reduces Accept to one of four values. Fastly honours Vary: Accept, so it keeps one copy of
# each. The expressions are those of deploy/nginx/formats.conf; a test compares them.
#
# accept.media_lookup() is not used, because it selects AVIF for */* and image/*.

sub smartserve_recv {
  # Requests that change something must go to the server's own port.
  # OPTIONS, the CORS preflight of scripts that set a header, is passed by the code that follows.
  if (req.method != "GET" && req.method != "HEAD" && req.method != "OPTIONS" && req.method != "FASTLYPURGE"
      && !(req.method == "POST" && req.url.path == "/info")) {
    error 405 "Method Not Allowed";
  }
  # What <smart-image> and other pages need besides images. Not cached here: /info may have signed addresses.
  if (req.method != "FASTLYPURGE" && req.url.path ~ "^/(static/|info(/|$)|oembed$)") {
    return(pass);
  }
  if (req.url.path !~ "^/(serve|api/images)/") {
    error 404 "Not Found";
  }

  declare local var.accept STRING;
  declare local var.avif STRING;
  declare local var.webp STRING;
  declare local var.rest STRING;
  set var.accept = req.http.Accept;
  set var.avif = "";
  set var.webp = "";
  set var.rest = "";
  if (var.accept ~ "%22" || std.strlen(var.accept) > 2048) {
    set var.accept = "";
  }

  if (var.accept ~ {"(?i)(?:^|,)[ \t]*image/avif[ \t]*(?:;[ \t]*(?:q[ \t]*=[ \t]*(?:0(?:\.[0-9]{0,3})?|1(?:\.0{0,3})?)[ \t]*)?)*;[ \t]*q[ \t]*=[ \t]*0(?:\.0{0,3})?[ \t]*(?:;[ \t]*)*(?:,|$)"}) {
    set var.avif = "";
  } elseif (var.accept ~ {"(?i)(?:^|,)[ \t]*image/avif[ \t]*(?:;[ \t]*(?:q[ \t]*=[ \t]*(?:0(?:\.[0-9]{0,3})?|1(?:\.0{0,3})?)[ \t]*)?)*;[ \t]*q[ \t]*=[ \t]*0\.[0-9]{0,3}[ \t]*(?:;[ \t]*)*(?:,|$)"}) {
    set var.avif = "lower";
  } elseif (var.accept ~ {"(?i)(?:^|,)[ \t]*image/avif[ \t]*(?:;[ \t]*(?:q[ \t]*=[ \t]*(?:0(?:\.[0-9]{0,3})?|1(?:\.0{0,3})?)[ \t]*)?)*;[ \t]*q[ \t]*=[ \t]*1(?:\.0{0,3})?[ \t]*(?:;[ \t]*)*(?:,|$)"} || var.accept ~ {"(?i)(?:^|,)[ \t]*image/avif[ \t]*(?:;[ \t]*)*(?:,|$)"}) {
    set var.avif = "full";
  }
  if (var.accept ~ {"(?i)(?:^|,)[ \t]*image/webp[ \t]*(?:;[ \t]*(?:q[ \t]*=[ \t]*(?:0(?:\.[0-9]{0,3})?|1(?:\.0{0,3})?)[ \t]*)?)*;[ \t]*q[ \t]*=[ \t]*0(?:\.0{0,3})?[ \t]*(?:;[ \t]*)*(?:,|$)"}) {
    set var.webp = "";
  } elseif (var.accept ~ {"(?i)(?:^|,)[ \t]*image/webp[ \t]*(?:;[ \t]*(?:q[ \t]*=[ \t]*(?:0(?:\.[0-9]{0,3})?|1(?:\.0{0,3})?)[ \t]*)?)*;[ \t]*q[ \t]*=[ \t]*0\.[0-9]{0,3}[ \t]*(?:;[ \t]*)*(?:,|$)"}) {
    set var.webp = "lower";
  } elseif (var.accept ~ {"(?i)(?:^|,)[ \t]*image/webp[ \t]*(?:;[ \t]*(?:q[ \t]*=[ \t]*(?:0(?:\.[0-9]{0,3})?|1(?:\.0{0,3})?)[ \t]*)?)*;[ \t]*q[ \t]*=[ \t]*1(?:\.0{0,3})?[ \t]*(?:;[ \t]*)*(?:,|$)"} || var.accept ~ {"(?i)(?:^|,)[ \t]*image/webp[ \t]*(?:;[ \t]*)*(?:,|$)"}) {
    set var.webp = "full";
  }
  if (var.accept ~ {"(?i)(?:^|,)[ \t]*(?:image/jpeg|image/\*|\*/\*)[ \t]*(?:;[ \t]*(?:q[ \t]*=[ \t]*(?:0(?:\.[0-9]{0,3})?|1(?:\.0{0,3})?)[ \t]*)?)*;[ \t]*q[ \t]*=[ \t]*1(?:\.0{0,3})?[ \t]*(?:;[ \t]*)*(?:,|$)"} || var.accept ~ {"(?i)(?:^|,)[ \t]*(?:image/jpeg|image/\*|\*/\*)[ \t]*(?:;[ \t]*)*(?:,|$)"}) {
    set var.rest = "full";
  }

  if (var.avif == "full" && var.webp == "full") {
    set req.http.Accept = "image/avif,image/webp";
  } elseif (var.avif == "full") {
    set req.http.Accept = "image/avif";
  } elseif (var.webp == "full") {
    set req.http.Accept = "image/webp";
  } elseif (var.rest == "full") {
    set req.http.Accept = "*/*";
  } elseif (var.avif == "lower" && var.webp == "lower") {
    set req.http.Accept = "image/avif,image/webp";
  } elseif (var.avif == "lower") {
    set req.http.Accept = "image/avif";
  } elseif (var.webp == "lower") {
    set req.http.Accept = "image/webp";
  } else {
    set req.http.Accept = "*/*";
  }

  # Client hints: one value for all, or none. Without client_hints.enabled the server's Vary does not name
  # Save-Data, and there is one copy.
  if (req.http.Save-Data ~ "(?i)^[ \t]*(?:on|\?1)[ \t]*(?:;|$)" || req.http.ECT ~ "(?i)^[ \t]*(?:slow-2g|2g|3g)[ \t]*$") {
    set req.http.Save-Data = "on";
  } else {
    unset req.http.Save-Data;
  }
  unset req.http.ECT;
}

sub smartserve_fetch {
  # Signed URLs are not cached: stale_if_error would serve them after their expiry.
  if (req.url ~ "(?i)sig=") {
    return(pass);
  }
  # If the server is down, stale copies are sent for a day. The server sets stale-while-revalidate.
  if (beresp.status == 200) {
    set beresp.stale_if_error = 1d;
  }
  if (beresp.status >= 500) {
    if (stale.exists) {
      return(deliver_stale);
    }
    return(pass);
  }
}

sub smartserve_deliver {
  # Fastly removes Surrogate-Key itself; Cache-Tag has the same content.
  unset resp.http.Cache-Tag;
}
