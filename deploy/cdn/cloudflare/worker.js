// Cloudflare Worker in front of smartserve: one cached copy per class of formats, on every plan.
//
// The class is added to the URL as a parameter that the server ignores, so the cache needs neither Vary
// nor a custom cache key (Enterprise). The Accept header of the class is forwarded, so every client of
// the class can display the cached copy.

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

var PICTURES = /^\/(serve|api\/images)\//;

function onward(request) {
    var url = new URL(request.url);
    if (!PICTURES.test(url.pathname)) return null;
    var name = classify(request.headers.get('Accept'));
    var lean = leaner(request.headers.get('Save-Data'), request.headers.get('ECT'));
    // searchParams would rewrite the query, but the server treats a second ? as &.
    url.search = (url.search ? url.search + '&' : '?') + 'cdn=' + name + (lean ? '-lean' : '');
    var headers = new Headers(request.headers);
    headers.set('Accept', SENT[name]);
    headers.delete('ECT');
    headers.delete('Save-Data');
    if (lean) headers.set('Save-Data', 'on');
    headers.delete('Cookie');
    return new Request(url.toString(), {method: request.method, headers: headers});
}

// What <smart-image> and other pages need besides images. Passed on unchanged.
var FOR_PAGES = /^\/(static\/|info(\/|$)|oembed$)/;

export default {
    async fetch(request) {
        var path = new URL(request.url).pathname;
        // OPTIONS: the CORS preflight of scripts that set a header. POST: many ids.
        var methods = path === '/info' ? ['GET', 'HEAD', 'OPTIONS', 'POST'] : ['GET', 'HEAD', 'OPTIONS'];
        if (!methods.includes(request.method)) {
            return new Response(null, {status: 405, headers: {Allow: methods.join(', ')}});
        }
        if (FOR_PAGES.test(path)) return fetch(request);
        var asked = onward(request);
        if (!asked) return new Response(null, {status: 404});
        // Without this, paths without an extension are not cached. The origin sets the lifetimes.
        return fetch(asked, {cf: {cacheEverything: true}});
    },
};

export {classify, leaner, onward, SENT};
