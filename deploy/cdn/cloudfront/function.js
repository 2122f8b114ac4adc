// CloudFront Function (cloudfront-js-2.0) for viewer requests: reduces Accept to one of four values, so
// that it can be part of the cache key (cache-policy.json) without one copy per browser.

// BEGIN classify: equal in each of these files; a test compares it with proxy/domain/negotiation.py.
// Returns the class of formats that the Accept header allows: both, avif, webp or none. Only an
// explicit image/avif or image/webp with q > 0 counts; */* and image/* do not.
var SENT = {both: 'image/avif,image/webp', avif: 'image/avif', webp: 'image/webp', none: '*/*'};

function classify(accept) {
    // No browser sends quoted strings or such long headers, so they need no parser here.
    if (!accept || accept.length > 2048 || accept.indexOf('"') >= 0) return 'none';
    var weights = {};
    accept.split(',').forEach(function (element) {
        var parts = element.split(';');
        var range = blank(parts[0]).toLowerCase();
        var weight = 1;
        for (var i = 1; i < parts.length; i++) {
            if (!blank(parts[i])) continue;
            var found = /^[ \t]*q[ \t]*=[ \t]*(0(\.[0-9]{0,3})?|1(\.0{0,3})?)[ \t]*$/i.exec(parts[i]);
            if (!found) return;
            weight = Number(found[1]);
        }
        weights[range] = Math.min(weight, range in weights ? weights[range] : 1);
    });
    var avif = weights['image/avif'] || 0;
    var webp = weights['image/webp'] || 0;
    var rest = ['image/jpeg', 'image/*', '*/*'].filter(function (one) { return one in weights; })[0];
    if (Math.max(avif, webp) < (rest ? weights[rest] : 0) || !Math.max(avif, webp)) return 'none';
    if (avif === webp) return 'both';
    return avif > webp ? 'avif' : 'webp';
}

function blank(text) {
    return text.replace(/^[ \t]+|[ \t]+$/g, '');
}

// Set to true together with client_hints.enabled of the server: leaner images have copies of their own.
// If false, no hint is forwarded, so that no leaner image gets into the copy of all clients.
var HINTS = false;

// Returns whether the client hints request fewer bytes.
function leaner(saveData, ect) {
    if (!HINTS) return false;
    return /^[ \t]*(on|\?1)[ \t]*(;|$)/i.test(saveData || '') || /^[ \t]*(slow-2g|2g|3g)[ \t]*$/i.test(ect || '');
}
// END classify

function handler(event) {
    var request = event.request;
    var accept = request.headers.accept;
    // CloudFront passes several header lines as multiValue; the server joins them in the same way.
    var text = accept ? (accept.multiValue || [accept]).map(function (one) { return one.value; }).join(',') : '';
    request.headers.accept = {value: SENT[classify(text)]};
    var saved = request.headers['save-data'];
    var ect = request.headers.ect;
    // For this header, add Save-Data to cache-policy.json.
    if (leaner(saved && saved.value, ect && ect.value)) request.headers['save-data'] = {value: 'on'};
    else delete request.headers['save-data'];
    delete request.headers.ect;
    return request;
}
