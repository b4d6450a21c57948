//! `[identity]`: the sections of all three sources are looked at, the one in use has to be complete.

use std::time::Duration;

use http::HeaderName;
use jsonwebtoken::{Algorithm, DecodingKey};

use super::limits::MAX_BODY;
use super::reader::Reader;
use super::rules;
use crate::config::{BackChannel, Claims, ForwardAuth, HeaderIdentity, Identity, IdentitySource, Jwt, JwtFrom, JwtKeys};
use crate::secret::SecretSource;

const LONG_LEEWAY_SECONDS: u64 = 300;
const JWT: &str = "identity.jwt";

pub(super) fn identity(r: &mut Reader<'_>, no_trusted_proxies: bool) -> Option<Identity> {
    let word = r.one_of("identity.source");
    let forward_auth = forward_auth(r, word == Some("forward_auth"));
    let fetch = fetch(r);
    let leeway = r.duration_or_zero("identity.jwt.leeway");
    let jwt = jwt(r, word == Some("jwt"), fetch, leeway);
    let header = header(r, word == Some("header"));
    if word == Some("header") && no_trusted_proxies {
        r.warn("identity.source", "believes headers of trusted proxies only, and server.trusted_proxies is empty: nobody can sign in");
    }
    let claims = claims(r);
    let own = back_channel(r, fetch, leeway);
    let source = match word? {
        "jwt" => IdentitySource::Jwt(Box::new(jwt?)),
        "header" => IdentitySource::Header(header?),
        _ => IdentitySource::ForwardAuth(forward_auth?),
    };
    let back_channel = if is_back_channel(r) { own } else { by_identity(&source) };
    Some(Identity { source, claims: claims?, back_channel })
}

const BACK_CHANNEL: &str = "session.back_channel";

/// Whether something of `[session.back_channel]` is written that says whom to believe. What is empty says nothing.
fn is_back_channel(r: &Reader<'_>) -> bool {
    let path = |name: &str| format!("{BACK_CHANNEL}.{name}");
    let text = |name: &str| r.optional(&path(name)).is_some() || r.is_unusable(&path(name));
    let list = |name: &str| r.is_written(&path(name)) && !r.is_blank(&path(name));
    let secret = ["secret", "secret_file"].iter().any(|name| r.is_written(&path(name)));
    secret || ["issuer", "jwks_url", "key_file"].into_iter().any(text) || ["audience", "algorithms"].into_iter().any(list)
}

/// Logout tokens are checked as those of sessions are, where these say who made them and for whom.
fn by_identity(source: &IdentitySource) -> Option<BackChannel> {
    let IdentitySource::Jwt(jwt) = source else { return None };
    let issuer = jwt.issuer.clone().filter(|_| !jwt.audience.is_empty())?;
    let Jwt { audience, algorithms, keys, leeway, .. } = Jwt::clone(jwt);
    Some(BackChannel { issuer, audience, algorithms, keys, leeway, section: "identity.jwt" })
}

fn back_channel(r: &mut Reader<'_>, fetch: Option<Fetch>, leeway: Option<Duration>) -> Option<BackChannel> {
    let in_use = is_back_channel(r);
    let algorithms = algorithms(r, BACK_CHANNEL, in_use);
    let keys = keys(r, BACK_CHANNEL, in_use, &algorithms, fetch);
    let issuer = r.optional("session.back_channel.issuer").map(str::to_owned);
    let audience: Vec<String> = r.list("session.back_channel.audience").into_iter().map(str::to_owned).collect();
    if !in_use {
        return None;
    }
    // Without either, a token that was made for another application would end people's chats.
    if issuer.is_none() && !r.is_unusable("session.back_channel.issuer") {
        r.problem("session.back_channel.issuer", "is required to take logout tokens: write the identity provider's \"iss\"");
    }
    if r.is_blank("session.back_channel.audience") {
        r.problem(
            "session.back_channel.audience",
            "is required to take logout tokens: write the client id that the provider knows the app by",
        );
    }
    Some(BackChannel { issuer: issuer?, audience, algorithms, keys: keys?, leeway: leeway?, section: BACK_CHANNEL })
}

fn forward_auth(r: &mut Reader<'_>, in_use: bool) -> Option<ForwardAuth> {
    let path = "identity.forward_auth.url";
    let url = if in_use { r.parse(path, rules::url) } else { r.parse_optional(path, rules::url) };
    let path = "identity.forward_auth.request_headers";
    let headers = r.each(path, rules::handed_on);
    let request_headers: Vec<HeaderName> = headers.into_iter().map(|(_, name)| name).collect();
    let path_cookies = "identity.forward_auth.cookies";
    let cookies: Vec<String> = r.each(path_cookies, rules::cookie).into_iter().map(|(_, name)| name).collect();
    if in_use && request_headers.is_empty() && r.is_blank(path) {
        r.problem(path, "is empty, so the host app could not tell one caller from another; write [\"cookie\"]");
    }
    if !cookies.is_empty() && !request_headers.contains(&http::header::COOKIE) {
        r.warn(path_cookies, "has no effect, since request_headers does not list cookie");
    }
    let timeout = r.duration("identity.forward_auth.timeout");
    let max_body = r.integer("identity.forward_auth.max_body", 1..=MAX_BODY);
    let max_session = r.integer("identity.forward_auth.max_session", 256..=MAX_BODY);
    Some(ForwardAuth { url: url?, request_headers, cookies, timeout: timeout?, max_body: max_body?, max_session: max_session? })
}

/// What a fetch of published keys may cost, wherever they are used.
#[derive(Clone, Copy, Debug)]
struct Fetch {
    min_refresh: Duration,
    timeout: Duration,
    max_body: usize,
}

fn fetch(r: &mut Reader<'_>) -> Option<Fetch> {
    let min_refresh = r.duration("identity.jwt.jwks_min_refresh");
    let timeout = r.duration("identity.jwt.jwks_timeout");
    let max_body = r.integer("identity.jwt.jwks_max_body", 1_024..=MAX_BODY);
    Some(Fetch { min_refresh: min_refresh?, timeout: timeout?, max_body: max_body? })
}

fn jwt(r: &mut Reader<'_>, in_use: bool, fetch: Option<Fetch>, leeway: Option<Duration>) -> Option<Jwt> {
    let from = from(r, in_use);
    let algorithms = algorithms(r, JWT, in_use);
    let keys = keys(r, JWT, in_use, &algorithms, fetch);
    let issuer = r.optional("identity.jwt.issuer").map(str::to_owned);
    let audience: Vec<String> = r.list("identity.jwt.audience").into_iter().map(str::to_owned).collect();
    if in_use && audience.is_empty() && matches!(keys, Some(JwtKeys::Jwks { .. })) {
        r.warn("identity.jwt.audience", "is empty: tokens that the same issuer made for other applications sign people in here too");
    }
    if leeway.is_some_and(|leeway| leeway.as_secs() > LONG_LEEWAY_SECONDS) {
        r.warn("identity.jwt.leeway", "is longer than 5m: tokens that ran out go on being believed for that long");
    }
    Some(Jwt { from: from?, keys: keys?, algorithms, issuer, audience, leeway: leeway? })
}

fn from(r: &mut Reader<'_>, in_use: bool) -> Option<JwtFrom> {
    let cookie = r.parse_optional("identity.jwt.cookie", rules::cookie);
    let header = r.parse_optional("identity.jwt.header", rules::header);
    let written = (r.optional("identity.jwt.cookie").is_some(), r.optional("identity.jwt.header").is_some());
    if in_use && written == (true, true) {
        r.problem("identity.jwt.header", "is set and so is identity.jwt.cookie; keep the one that carries the token");
    }
    if in_use && written == (false, false) && !r.is_unusable("identity.jwt.cookie") && !r.is_unusable("identity.jwt.header") {
        r.problem(
            "identity.jwt.cookie",
            "is required, or identity.jwt.header, when identity.source is \"jwt\": name what carries the token",
        );
    }
    cookie.map(JwtFrom::Cookie).or(header.map(JwtFrom::Header))
}

/// What a key of a family is made of, and what it is called.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Family {
    Hmac,
    Rsa,
    Ec,
    Ed,
}

fn family(algorithm: Algorithm) -> Family {
    match algorithm {
        Algorithm::HS256 | Algorithm::HS384 | Algorithm::HS512 => Family::Hmac,
        Algorithm::ES256 | Algorithm::ES384 => Family::Ec,
        Algorithm::EdDSA => Family::Ed,
        _ => Family::Rsa,
    }
}

fn algorithms(r: &mut Reader<'_>, section: &str, in_use: bool) -> Vec<Algorithm> {
    let path = &format!("{section}.algorithms");
    let found = r.each(path, |name| match name.parse::<Algorithm>() {
        Ok(algorithm) => Ok(algorithm),
        Err(_) if name.eq_ignore_ascii_case("none") => Err("would let anybody sign in as anybody; take it out".into()),
        Err(_) => {
            Err("is not a known algorithm; known are HS256, HS384, HS512, RS256, RS384, RS512, PS256, PS384, PS512, ES256, ES384, EdDSA"
                .into())
        }
    });
    let algorithms: Vec<Algorithm> = found.into_iter().map(|(_, algorithm)| algorithm).collect();
    if let Some(first) = algorithms.first() {
        if algorithms.iter().any(|other| family(*other) != family(*first)) {
            r.problem(path, "mixes key families, which invites algorithm confusion; list the algorithms of the one key that signs");
        }
    } else if in_use && r.is_blank(path) {
        r.problem(path, format!("is required {}; list what the tokens are signed with, such as [\"RS256\"]", when(section)));
    }
    algorithms
}

fn keys(r: &mut Reader<'_>, section: &str, in_use: bool, algorithms: &[Algorithm], fetch: Option<Fetch>) -> Option<JwtKeys> {
    let [jwks_url, key_file, secret, secret_file] =
        &["jwks_url", "key_file", "secret", "secret_file"].map(|name| format!("{section}.{name}"));
    let url = r.parse_optional(jwks_url, rules::url);
    let secret_key: &str = if r.is_written(secret_file) { secret_file } else { secret };
    let given: Vec<&str> = [jwks_url.as_str(), key_file, secret_key]
        .into_iter()
        .filter(|path| r.optional(path).is_some() || (*path == secret_key && r.is_written(path)))
        .collect();
    if !in_use {
        return None;
    }
    match given.as_slice() {
        [] => {
            let why = format!("is required, or {key_file}, or {secret_file}, {}", when(section));
            if !r.is_unusable(jwks_url) && !r.is_unusable(key_file) {
                r.problem(jwks_url, why);
            }
            return None;
        }
        [_] => {}
        [first, others @ ..] => {
            for other in others {
                r.problem(other, format!("is set and so is {first}; keep the one that the token is checked with"));
            }
        }
    }
    let symmetric = algorithms.first().map(|first| family(*first) == Family::Hmac);
    let mut keys = None;
    for path in given {
        let is_secret = path == secret_key;
        if symmetric.is_some_and(|symmetric| symmetric != is_secret) {
            let why = if is_secret {
                "is a shared secret, but the algorithms need a public key; use jwks_url or key_file, or list HS256"
            } else {
                "gives public keys, but HS256, HS384 and HS512 need a shared secret: a public key taken for one lets anybody sign; use secret_file"
            };
            r.problem(path, why);
            continue;
        }
        let found = match path {
            path if path == jwks_url => url.clone().zip(fetch).map(|(url, Fetch { min_refresh, timeout, max_body })| JwtKeys::Jwks {
                url,
                min_refresh,
                timeout,
                max_body,
            }),
            path if path == key_file => public_key(r, key_file, algorithms).map(JwtKeys::PublicKey),
            // RFC 7518 §3.2: a key at least as long as the hash.
            _ => r.secret(secret, 32).map(JwtKeys::SharedSecret),
        };
        keys = keys.or(found);
    }
    keys
}

fn public_key(r: &mut Reader<'_>, path: &str, algorithms: &[Algorithm]) -> Option<SecretSource> {
    let name = r.optional(path)?;
    let source = r.secret_file(path, name)?;
    let pem = source.get();
    let pem = pem.expose();
    if pem.contains("PRIVATE KEY-----") {
        r.problem(path, "holds a private key; give the public one only: openssl pkey -in private.pem -pubout");
        return None;
    }
    let (kind, usable) = match family(*algorithms.first()?) {
        Family::Rsa => ("an RSA", DecodingKey::from_rsa_pem(pem.as_bytes()).is_ok()),
        Family::Ec => ("an EC", DecodingKey::from_ec_pem(pem.as_bytes()).is_ok()),
        Family::Ed => ("an Ed25519", DecodingKey::from_ed_pem(pem.as_bytes()).is_ok()),
        Family::Hmac => return None,
    };
    if !usable {
        r.problem(path, format!("does not hold {kind} public key in PEM form, which the algorithms need"));
        return None;
    }
    Some(source)
}

/// When the keys of a section have to be there.
fn when(section: &str) -> &'static str {
    if section == JWT { "when identity.source is \"jwt\"" } else { "to take logout tokens" }
}

fn header(r: &mut Reader<'_>, in_use: bool) -> Option<HeaderIdentity> {
    let path = "identity.header.id";
    let id = if in_use { r.parse(path, rules::header) } else { r.parse_optional(path, rules::header) };
    let username = r.parse_optional("identity.header.username", rules::header);
    let email = r.parse_optional("identity.header.email", rules::header);
    let name = r.parse_optional("identity.header.name", rules::header);
    let roles = r.parse_optional("identity.header.roles", rules::header);
    Some(HeaderIdentity { id: id?, username, email, name, roles })
}

fn claims(r: &mut Reader<'_>) -> Option<Claims> {
    let mut pointer = |name: &str| r.parse_text(&format!("identity.claims.{name}"), rules::pointer);
    let (id, username, email) = (pointer("id"), pointer("username"), pointer("email"));
    let (email_verified, name, roles) = (pointer("email_verified"), pointer("name"), pointer("roles"));
    let (sid, active) = (pointer("sid"), pointer("active"));
    let avatar = pointer("avatar");
    Some(Claims {
        id: id?,
        username: username?,
        email: email?,
        email_verified: email_verified?,
        name: name?,
        roles: roles?,
        sid: sid?,
        active: active?,
        avatar: avatar?,
    })
}
