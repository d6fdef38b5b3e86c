// Greets, and gives back what it was sent.

import { AutoRouter } from 'itty-router';

const router = AutoRouter();
router
    .get('/hello/:name', ({ name }) => `Hello, ${name}!`)
    .post('/echo', async (request) => new Response(await request.text(), { status: 201 }));

addEventListener('fetch', (event) => event.respondWith(router.fetch(event.request)));
