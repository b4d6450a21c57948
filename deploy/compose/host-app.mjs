// A host app in a few lines, to see the whole at work: `docker compose --profile demo up`. Anybody may be anybody here, so
// compose.yaml publishes it on loopback only. Yours takes its place with APP_URL and APP_WHO_AM_I in .env.

import { randomBytes } from 'node:crypto';
import { createServer } from 'node:http';

const chat = process.env.CHAT_URL;
const people = {
  ada: { sub: '1', preferred_username: 'ada', email: 'ada@example.com', name: 'Ada Lovelace' },
  grace: { sub: '2', preferred_username: 'grace', email: 'grace@example.com', name: 'Grace Hopper' },
};
const sessions = new Map();

const who = (request) => sessions.get(/(?:^|; *)session=([^;]+)/.exec(request.headers.cookie ?? '')?.[1]);

const page = (user) => `<!doctype html><meta charset="utf-8"><title>Host app</title>
<p>${user ? `Signed in as ${user.name}.` : 'Signed out.'}
${Object.keys(people).map((name) => `<form method="post" action="/sign-in/${name}" style="display:inline"><button>Sign in as ${name}</button></form>`).join(' ')}
<form method="post" action="/sign-out" style="display:inline"><button>Sign out</button></form></p>
${user ? `<iframe src="${chat}/channel/general?layout=embedded" title="Chat" style="width:100%;height:80vh" allow="camera; microphone; clipboard-write; fullscreen"></iframe>` : ''}`;

const server = createServer((request, response) => {
  const { pathname } = new URL(request.url, 'http://host-app');
  const answer = (status, type, text, headers = {}) => response.writeHead(status, { 'content-type': type, 'cache-control': 'no-store', ...headers }).end(text);
  const [, verb, name] = pathname.split('/');
  if (request.method === 'POST' && verb === 'sign-in' && people[name]) {
    const id = randomBytes(16).toString('hex');
    sessions.set(id, people[name]);
    return answer(303, 'text/plain', '', { location: '/', 'set-cookie': `session=${id}; Path=/; HttpOnly; SameSite=Lax` });
  }
  if (request.method === 'POST' && verb === 'sign-out') {
    return answer(303, 'text/plain', '', { location: '/', 'set-cookie': 'session=; Path=/; Max-Age=0' });
  }
  if (pathname === '/api/me') {
    const user = who(request);
    return answer(user ? 200 : 401, 'application/json', JSON.stringify(user ?? null));
  }
  return pathname === '/' ? answer(200, 'text/html', page(who(request))) : answer(404, 'text/plain', 'not found');
});
server.listen(Number(process.env.PORT ?? 8000), () => console.log(`host app: listening on ${server.address().port}`));
for (const signal of ['SIGTERM', 'SIGINT']) process.on(signal, () => process.exit(0));
