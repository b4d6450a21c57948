// Sets up what compose.yaml needs, with what stands in Rocket.Chat's own image: Node.
//
//   node setup.mjs secrets   before Rocket.Chat starts: makes the secrets that are not there yet.
//   node setup.mjs account   once it runs: makes Gantry's service account and its personal access token.
//
// Both may run any number of times: what is there and works is left alone. Secrets are never printed.

import { createHash, randomBytes } from 'node:crypto';
import { chmodSync, chownSync, existsSync, mkdirSync, readFileSync, renameSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { setTimeout as pause } from 'node:timers/promises';

const env = (name, fallback) => process.env[name] || fallback;

// One directory for each reader, so that neither sees the other's secrets. `owner` is who the container runs as.
const rocketchat = { dir: env('ROCKETCHAT_SECRETS', '/run/secrets/rocketchat'), owner: 65533 };
const gantry = { dir: env('GANTRY_SECRETS', '/run/secrets/gantry'), owner: 65532 };
const workspace = env('WORKSPACE_URL', 'http://rocketchat:3000').replace(/\/+$/, '');
const admin = env('ADMIN_USERNAME', 'admin');
const account = env('SERVICE_USERNAME', 'gantry');
const patienceMs = 1000 * Number(env('PATIENCE_SECONDS', '900'));
const retryMs = 1000 * Number(env('RETRY_SECONDS', '5'));

// What Gantry's account may do: the table in step 2 of the README, and making its own token.
const permissions = [
  'api-bypass-rate-limit',
  'create-personal-access-tokens',
  'create-user',
  'user-generate-access-token',
  'view-full-other-user-info',
];

// A failure that an operator can do something about.
class Problem extends Error {}

const say = (text) => console.log(`setup: ${text}`);

function read(place, name) {
  const path = join(place.dir, name);
  return existsSync(path) ? readFileSync(path, 'utf8').trim() : '';
}

// Written whole or not at all, for its reader's eyes only.
function write(place, name, text) {
  const path = join(place.dir, name);
  mkdirSync(place.dir, { recursive: true });
  writeFileSync(`${path}.new`, `${text}\n`, { mode: 0o400 });
  if (process.getuid() === 0) chownSync(`${path}.new`, place.owner, place.owner);
  renameSync(`${path}.new`, path);
}

function secrets() {
  const make = (place, name) => {
    if (read(place, name)) return read(place, name);
    write(place, name, randomBytes(24).toString('base64url'));
    say(`made ${name}`);
    return read(place, name);
  };
  for (const place of [rocketchat, gantry]) {
    mkdirSync(place.dir, { recursive: true });
    chmodSync(place.dir, 0o755);
  }
  make(rocketchat, 'admin-password');
  // Both sides know it; it is copied again where Gantry's copy has gone or differs.
  const shared = make(rocketchat, 'create-token-secret');
  if (read(gantry, 'create-token-secret') !== shared) write(gantry, 'create-token-secret', shared);
  make(gantry, 'logout-secret');
}

// One REST call. `who` is a session or a token, `password` the second factor that a password stands in for.
async function call(method, path, { body, who, password } = {}) {
  const headers = { 'content-type': 'application/json' };
  if (who) Object.assign(headers, { 'x-user-id': who.userId, 'x-auth-token': who.authToken });
  if (password) {
    headers['x-2fa-method'] = 'password';
    headers['x-2fa-code'] = createHash('sha256').update(password).digest('hex');
  }
  for (const deadline = Date.now() + 180_000; ; ) {
    const answer = await fetch(`${workspace}${path}`, {
      method,
      headers,
      body: body && JSON.stringify(body),
      redirect: 'error',
      signal: AbortSignal.timeout(30_000),
    });
    const text = await answer.text();
    let json = {};
    try {
      json = JSON.parse(text);
    } catch {
      // Told below by its status.
    }
    if (answer.status === 429 && Date.now() < deadline) {
      const seconds = Number(/wait (\d+) seconds/.exec(json.error ?? '')?.[1] ?? 10);
      say(`${path} is rate limited, going on in ${seconds} s`);
      await pause(1000 * seconds + 200);
      continue;
    }
    return { ok: answer.ok, status: answer.status, json, type: json.errorType ?? '', error: json.error ?? json.message ?? text.slice(0, 200) };
  }
}

// A call that has to work.
async function must(what, method, path, options) {
  const answer = await call(method, path, options);
  if (!answer.ok) throw new Problem(`${what}: ${method} ${path} answered ${answer.status}: ${answer.error}`);
  return answer.json;
}

async function until(what, attempt, { patience = patienceMs, pace = retryMs } = {}) {
  const deadline = Date.now() + patience;
  for (let told = ''; ; ) {
    let why;
    try {
      const result = await attempt();
      if (result.done) return result.done;
      why = result.why;
    } catch (error) {
      why = error.cause?.code ?? error.message;
    }
    if (Date.now() >= deadline) throw new Problem(`${what}: ${why}; gave up after ${patience / 1000} s`);
    if (why !== told) say(`waiting for ${what}: ${why}`);
    told = why;
    await pause(pace);
  }
}

async function login(username, password) {
  const answer = await call('POST', '/api/v1/login', { body: { user: username, password } });
  return answer.ok ? { done: answer.json.data } : { why: `signing in as ${username} was refused with ${answer.status}: ${answer.error}` };
}

// The id of the role that the account gets: one of its own, where the workspace's plan has custom roles.
async function role(who) {
  const find = async () => (await must('roles', 'GET', '/api/v1/roles.list', { who })).roles.find((one) => one.name === 'gantry')?._id;
  const known = await find();
  if (known) return known;
  const made = await call('POST', '/api/v1/roles.create', { who, body: { name: 'gantry', description: 'What Gantry needs', scope: 'Users' } });
  if (made.ok) return made.json.role?._id ?? find();
  say(`this plan has no custom roles (${made.error}): the permissions go to the role "bot" instead, so have no other bots here that you do not trust`);
  return 'bot';
}

async function grant(who, roleId) {
  const all = (await must('permissions', 'GET', '/api/v1/permissions.listAll', { who })).update;
  const missing = permissions.flatMap((id) => {
    const one = all.find((permission) => permission._id === id);
    if (!one) say(`this version has no permission ${id}`);
    return one && !one.roles.includes(roleId) ? [{ _id: id, roles: [...one.roles, roleId] }] : [];
  });
  if (missing.length === 0) return;
  await must('permissions', 'POST', '/api/v1/permissions.update', { who, body: { permissions: missing } });
  say(`gave the role ${missing.map((one) => one._id).join(', ')}`);
}

// The account itself, with a password that only this volume knows.
async function user(who, adminPassword, roleId) {
  let password = read(rocketchat, 'service-password');
  if (!password) {
    password = randomBytes(24).toString('base64url');
    write(rocketchat, 'service-password', password);
  }
  const found = await call('GET', `/api/v1/users.info?username=${encodeURIComponent(account)}`, { who });
  if (!found.ok) {
    // Not verified: a verified address would switch e-mail two-factor on, and nobody reads those mails.
    const body = {
      username: account, name: 'Gantry', email: env('SERVICE_EMAIL', 'gantry@example.com'), password, roles: [roleId],
      verified: false, joinDefaultChannels: false, requirePasswordChange: false, sendWelcomeEmail: false,
    };
    await must(`making the account ${account}`, 'POST', '/api/v1/users.create', { who, body });
    say(`made the account ${account}`);
  } else {
    const { _id: userId, roles = [] } = found.json.user;
    if (roles.includes('admin')) {
      throw new Problem(`the account ${account} is an administrator: set SERVICE_USERNAME to a name that is free`);
    }
    if (!roles.includes(roleId)) {
      await must(`the role of ${account}`, 'POST', '/api/v1/roles.addUserToRole', { who, body: { username: account, roleId } });
    }
    if (!(await login(account, password)).done) {
      await must(`the password of ${account}`, 'POST', '/api/v1/users.update', { who, password: adminPassword, body: { userId, data: { password } } });
      say(`gave the account ${account} a new password`);
    }
  }
  return password;
}

async function token(password) {
  const { done: own, why } = await login(account, password);
  if (!own) throw new Problem(why);
  const body = { tokenName: 'gantry', bypassTwoFactor: true };
  const options = { who: own, password, body };
  let made = await call('POST', '/api/v1/users.generatePersonalAccessToken', options);
  if (made.type === 'error-token-already-exists' || /already exists/.test(made.error)) {
    await must('the old token', 'POST', '/api/v1/users.removePersonalAccessToken', { ...options, body: { tokenName: 'gantry' } });
    made = await call('POST', '/api/v1/users.generatePersonalAccessToken', options);
  }
  if (!made.ok || !made.json.token) throw new Problem(`the token could not be made: ${made.status}: ${made.error}`);
  write(gantry, 'user-id', own.userId);
  write(gantry, 'auth-token', made.json.token);
  await call('POST', '/api/v1/logout', { who: own });
}

async function makeAccount() {
  await until(`Rocket.Chat at ${workspace}`, async () => {
    const { ok, status, json } = await call('GET', '/api/info');
    return ok && json.version ? { done: true } : { why: `it answered ${status}` };
  });
  const known = { userId: read(gantry, 'user-id'), authToken: read(gantry, 'auth-token') };
  if (known.userId && known.authToken && (await call('GET', '/api/v1/me', { who: known })).ok) {
    say('the service account is there, and its token works');
    return;
  }
  const adminPassword = read(rocketchat, 'admin-password');
  if (!adminPassword) throw new Problem(`${rocketchat.dir}/admin-password is missing: run "setup.mjs secrets" first`);
  const first = await login(admin, adminPassword);
  if (!first.done && first.why.includes('totp')) {
    throw new Problem(`${admin} has two-factor sign-in: make the service account by hand (step 2 of the README), and put user-id and auth-token into ${gantry.dir}`);
  }
  // A fresh workspace may answer before it has made its administrator. Few tries: after ten Rocket.Chat locks the account.
  const few = { patience: Math.min(patienceMs, 12 * retryMs), pace: 2 * retryMs };
  const changed = `(if its password was changed, write it into ${rocketchat.dir}/admin-password)`;
  const who = first.done ?? (await until(`the administrator ${admin} ${changed}`, () => login(admin, adminPassword), few));
  const roleId = await role(who);
  await grant(who, roleId);
  const password = await user(who, adminPassword, roleId);
  await token(password);
  await call('POST', '/api/v1/logout', { who });
  say('the service account has its token');
}

const commands = { secrets, account: makeAccount };
const command = commands[process.argv[2]];
try {
  if (!command) throw new Problem('say what: "secrets" or "account"');
  await command();
} catch (error) {
  console.error(`setup: ${error instanceof Problem ? error.message : error.stack}`);
  process.exitCode = 1;
}
