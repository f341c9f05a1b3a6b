// A wasi:http service: greets whom the path names.
import { getEnvironment } from 'wasi:cli/environment@0.2.10';

addEventListener('fetch', (event) => {
  const { GREETING = 'Hello' } = Object.fromEntries(getEnvironment());
  const name = new URL(event.request.url).pathname.slice(1);
  event.respondWith(new Response(`${GREETING} ${name}, from JavaScript\n`));
});
