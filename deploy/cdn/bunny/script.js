// Bunny edge script (middleware) before the cache: one copy per class of formats, and purging by tag.
// Enable "Run script before cache" and Vary Cache by URL query string.
//
// The class is added to the URL as a parameter that the server ignores.
import * as BunnySDK from '@bunny.net/edgescript-sdk';

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
    if (!PICTURES.test(url.pathname)) return request;
    var name = classify(request.headers.get('Accept'));
    var lean = leaner(request.headers.get('Save-Data'), request.headers.get('ECT'));
    url.search = (url.search ? url.search + '&' : '?') + 'cdn=' + name + (lean ? '-lean' : '');
    var headers = new Headers(request.headers);
    headers.set('Accept', SENT[name]);
    headers.delete('ECT');
    headers.delete('Save-Data');
    if (lean) headers.set('Save-Data', 'on');
    return new Request(url.toString(), {method: request.method, headers: headers});
}

// Bunny reads tags only from CDN-Tag.
function tagged(response) {
    var tags = response.headers.get('Cache-Tag');
    if (!tags) return response;
    var headers = new Headers(response.headers);
    headers.set('CDN-Tag', tags);
    return new Response(response.body, {status: response.status, headers: headers});
}

BunnySDK.net.http
    .servePullZone({url: 'https://origin.example.org'})
    .onClientRequest(function (context) { return Promise.resolve(onward(context.request)); })
    .onOriginResponse(function (context) { return Promise.resolve(tagged(context.response)); });

export {classify, leaner, onward, tagged, SENT};
