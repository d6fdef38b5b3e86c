// A web page that counts its visitors: answers HTTP requests, keeps the count in a key-value store.

import { increment } from 'wasi:keyvalue/atomics@0.2.0-draft';
import { open } from 'wasi:keyvalue/store@0.2.0-draft';
import { log } from 'wasi:logging/logging@0.1.0-draft';

addEventListener('fetch', (event) => event.respondWith(page(new URL(event.request.url))));

function page({ pathname }) {
    // A browser also asks for an icon: it is no visitor.
    if (pathname !== '/') return answer(404, 'No such page.\n');
    try {
        const n = increment(open('default'), 'visitors', 1n);
        log('info', '', `visitor ${n}`);
        return answer(200, `<!doctype html><title>Visitors</title>You are visitor ${n}.\n`);
    } catch (error) {
        return answer(502, `The visitors cannot be counted: ${error.payload?.val ?? error.payload?.tag ?? error}\n`);
    }
}

function answer(status, text) {
    return new Response(text, { status, headers: { 'content-type': 'text/html; charset=utf-8' } });
}
