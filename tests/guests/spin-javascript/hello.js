// Greets, and gives back what it was sent: whole, or as it comes; also by way of another server.

import { AutoRouter } from 'itty-router';

const router = AutoRouter();
router
    .get('/hello/:name', ({ name }) => `Hello, ${name}!`)
    .post('/echo', async (request) => new Response(await request.text(), { status: 201 }))
    .post('/through', (request) => new Response(request.body))
    .post('/relay', ({ body, query }) => fetch(query.to, { method: 'POST', body }))
    .get('/relay', ({ query }) => fetch(query.to));

addEventListener('fetch', (event) => event.respondWith(router.fetch(event.request)));
