// Runs an edge function of deploy/cdn under Node: requests come as JSON on standard input, what became
// of each goes out the same way. Usage: node edge.mjs cloudflare|cloudfront|bunny FILE
import {readFileSync} from 'node:fs';
import {pathToFileURL} from 'node:url';
import vm from 'node:vm';

const [kind, file] = process.argv.slice(2);
const asked = JSON.parse(readFileSync(0, 'utf8'));

const told = (request) => request && {
    url: request.url,
    method: request.method,
    accept: request.headers.get('Accept'),
    cookie: request.headers.get('Cookie'),
    saveData: request.headers.get('Save-Data'),
    ect: request.headers.get('ECT'),
};

async function modules() {
    const edge = await import(pathToFileURL(file));
    return {
        request: async ({url, method, headers}) => told(edge.onward(new Request(url, {method, headers}))),
        classify: edge.classify,
        edge,
    };
}

const runners = {
    cloudflare: modules,
    bunny: modules,
    // Nothing of Node's is there, as at CloudFront.
    cloudfront: async () => {
        const inside = vm.createContext({});
        vm.runInContext(readFileSync(file, 'utf8'), inside);
        return {
            request: async ({url, method, headers}) => {
                inside.event = {request: {method, uri: new URL(url).pathname, headers: {}}};
                const accept = headers.Accept;
                if (accept !== undefined) inside.event.request.headers.accept = {value: accept};
                for (const name of ['Save-Data', 'ECT']) {
                    if (headers[name]) inside.event.request.headers[name.toLowerCase()] = {value: headers[name]};
                }
                const changed = vm.runInContext('handler(event)', inside).headers;
                const [saveData, ect] = [changed['save-data'], changed.ect].map((one) => one ? one.value : null);
                return {url, method, accept: changed.accept.value, saveData, ect};
            },
            classify: inside.classify,
            several: (values) => {
                const lines = values.map((value) => ({value}));
                inside.event = {request: {headers: {accept: {value: values[0], multiValue: lines}}}};
                return vm.runInContext('handler(event)', inside).headers.accept.value;
            },
        };
    },
};

const runner = await runners[kind]();
const answers = {
    classes: (asked.accepts || []).map((accept) => runner.classify(accept)),
    requests: await Promise.all((asked.requests || []).map(runner.request)),
};
if (asked.several) answers.several = runner.several(asked.several);
if (asked.fetched) {
    globalThis.fetch = async (request, options) => {
        answers.options = options;
        answers.forwarded = {...told(request), body: await request.text()};
        return new Response('picture', {status: 200});
    };
    const {url, ...options} = asked.fetched;
    const response = await runner.edge.default.fetch(new Request(url, options));
    answers.fetched = {status: response.status, body: await response.text()};
    answers.allow = response.headers.get('Allow');
}
if (asked.tagged) {
    const response = runner.edge.tagged(new Response('picture', {headers: asked.tagged}));
    answers.tagged = Object.fromEntries(response.headers);
    answers.hooks = globalThis.bunnyHooks;
}
process.stdout.write(JSON.stringify(answers));
