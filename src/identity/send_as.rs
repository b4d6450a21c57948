//! A call to the host app in the name of whom a host session belongs to: its own logout.

use http::header::{ACCEPT, AUTHORIZATION, COOKIE, USER_AGENT};
use http::{HeaderMap, HeaderValue};

use super::{AGENT, Credentials, Material, Source, Validator, shown_url};
use crate::config::{HostLogout, JwtFrom};
use crate::outbound::api::{Call, CallError};

/// Bytes of an answer that are read at most. Nobody looks at it.
const MAX_BODY: usize = 64 * 1024;

/// Why the host app's logout did not come about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NotSent {
    /// In words, with what to do.
    pub why: String,
    /// Nothing can have been acted on, so it may be tried again.
    pub again: bool,
}

impl Validator {
    /// Calls the host app's logout with the credentials of a host session, as its browser would.
    ///
    /// # Errors
    /// It could not be called, or did not answer as a logout does.
    pub async fn log_out(&self, logout: &HostLogout, credentials: &Credentials) -> Result<(), NotSent> {
        let final_one = |why: String| NotSent { why, again: false };
        let (Some(api), Some(mut headers)) = (&self.api, self.headers(credentials)) else {
            return Err(final_one("the session is none that Gantry could call the host app with".to_owned()));
        };
        headers.insert(ACCEPT, HeaderValue::from_static("*/*"));
        headers.entry(USER_AGENT).or_insert(AGENT);
        let HostLogout { url, method, timeout } = logout;
        let call = Call { method: method.clone(), url, headers, body: None, timeout: *timeout, max_body: MAX_BODY };
        let place = format!("{method} {}", shown_url(url));
        match api.call(call).await {
            // Many send the browser on to their start page.
            Ok(reply) if reply.status.is_success() || reply.status.is_redirection() => Ok(()),
            // There is no session any more, which is what was wanted.
            Ok(reply) if reply.status == http::StatusCode::UNAUTHORIZED => Ok(()),
            Ok(reply) => {
                let hint = match reply.status.as_u16() {
                    403 | 419 => "the endpoint seems to want a CSRF token: exempt this path, or give one that does not",
                    404 | 405 => "session.host_logout_url or session.host_logout_method is likely wrong",
                    _ => "the host app fails",
                };
                Err(final_one(format!("{place} answered {}: {hint}", reply.status.as_u16())))
            }
            Err(error) => {
                let again = matches!(error, CallError::Unreachable { .. } | CallError::Busy { .. });
                Err(NotSent { why: format!("{place}: {error}"), again })
            }
        }
    }

    /// What carries the session, where its browser has it.
    fn headers(&self, credentials: &Credentials) -> Option<HeaderMap> {
        match (&*self.source, &credentials.material) {
            (Source::ForwardAuth(_), Material::Headers(headers)) => Some(headers.clone()),
            (Source::Jwt(source), Material::Token { token, .. }) => {
                let (name, value) = match source.from() {
                    JwtFrom::Cookie(name) => (COOKIE, format!("{name}={}", token.expose())),
                    JwtFrom::Header(name) if *name == AUTHORIZATION => (AUTHORIZATION, format!("Bearer {}", token.expose())),
                    JwtFrom::Header(name) => (name.clone(), token.expose().to_owned()),
                };
                let mut value = HeaderValue::try_from(value).ok()?;
                value.set_sensitive(true);
                Some(HeaderMap::from_iter([(name, value)]))
            }
            _ => None,
        }
    }
}
