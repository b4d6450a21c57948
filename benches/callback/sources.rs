//! The identity sources: how each is configured, and what a browser of each sends.

use std::io;
use std::time::{SystemTime, UNIX_EPOCH};

use gantry::demo::rocketchat::{LoggedRequest, Options, User};
use jsonwebtoken::{Algorithm, EncodingKey, Header};
use rcgen::{KeyPair, PublicKeyData};
use serde_json::json;
use tempfile::TempDir;

use crate::support::apps::Apps;

/// An identity source.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Source {
    /// A cookie, and a who-am-I endpoint.
    ForwardAuth,
    /// A signed token in a cookie: ES256, the public key in a file.
    Jwt,
    /// Headers of a trusted proxy.
    Header,
}

impl Source {
    pub const ALL: [Self; 3] = [Self::ForwardAuth, Self::Jwt, Self::Header];

    pub fn name(self) -> &'static str {
        match self {
            Self::ForwardAuth => "forward_auth",
            Self::Jwt => "jwt (ES256)",
            Self::Header => "header",
        }
    }
}

/// The stand-ins, set up for one source.
#[derive(Debug)]
pub struct Set {
    pub apps: Apps,
    source: Source,
    signing: EncodingKey,
    _files: TempDir,
}

impl Set {
    /// Starts them around this workspace.
    ///
    /// # Errors
    /// There is no free port, or no place for the key.
    pub async fn start(source: Source, options: Options) -> io::Result<Self> {
        let pair = KeyPair::generate().map_err(io::Error::other)?;
        let signing = EncodingKey::from_ec_pem(pair.serialize_pem().as_bytes()).map_err(io::Error::other)?;
        let files = tempfile::tempdir()?;
        let apps = Apps::start(options).await?;
        let apps = match source {
            Source::ForwardAuth => apps,
            Source::Jwt => {
                let key = files.path().join("jwt.pem");
                std::fs::write(&key, public_pem(&pair))?;
                apps.with("IDENTITY__SOURCE", "jwt")
                    .with("IDENTITY__FORWARD_AUTH__URL", "")
                    .with("IDENTITY__JWT__COOKIE", "session")
                    .with("IDENTITY__JWT__ALGORITHMS", "ES256")
                    .with("IDENTITY__JWT__KEY_FILE", &key.display().to_string())
            }
            Source::Header => apps
                .with("IDENTITY__SOURCE", "header")
                .with("IDENTITY__FORWARD_AUTH__URL", "")
                .with("SERVER__TRUSTED_PROXIES", "127.0.0.1/32")
                .with("IDENTITY__HEADER__ID", "x-auth-request-user")
                .with("IDENTITY__HEADER__EMAIL", "x-auth-request-email"),
        };
        Ok(Self { apps, source, signing, _files: files })
    }

    /// The lines of headers that this user's browser sends, with an account in the workspace or without.
    ///
    /// # Errors
    /// A token cannot be signed.
    pub fn browser(&self, username: &str, settled: bool) -> io::Result<String> {
        if settled {
            self.apps.chat.add_user(User::new(username));
        }
        Ok(match self.source {
            Source::ForwardAuth => self.apps.guest(username),
            Source::Jwt => {
                let now = SystemTime::now().duration_since(UNIX_EPOCH).map_err(io::Error::other)?.as_secs();
                let claims = json!({
                    "sub": format!("id-{username}"), "preferred_username": username, "email": format!("{username}@app.test"),
                    "name": username, "iat": now, "exp": now + 3600,
                });
                let token = jsonwebtoken::encode(&Header::new(Algorithm::ES256), &claims, &self.signing).map_err(io::Error::other)?;
                format!("Cookie: session={token}\r\n")
            }
            Source::Header => format!("X-Auth-Request-User: {username}\r\nX-Auth-Request-Email: {username}@app.test\r\n"),
        })
    }
}

impl Set {
    /// What Gantry asked both apps so far, but for its own looks at the workspace's health.
    pub fn asked(&self) -> usize {
        let at_chat = self.apps.chat.read(|state| {
            let service = state.options.service.id.as_bytes();
            let health = |request: &&LoggedRequest| {
                let own = request.headers.get("x-user-id").is_some_and(|id| id.as_bytes() == service);
                request.endpoint == "/api/info" || (own && request.endpoint == "me")
            };
            state.requests.iter().filter(|request| !health(request)).count()
        });
        at_chat + self.apps.app.me_calls()
    }
}

/// The public half of a pair, PEM.
fn public_pem(pair: &KeyPair) -> String {
    use base64::Engine;
    let text = base64::engine::general_purpose::STANDARD.encode(pair.subject_public_key_info());
    format!("-----BEGIN PUBLIC KEY-----\n{text}\n-----END PUBLIC KEY-----\n")
}
