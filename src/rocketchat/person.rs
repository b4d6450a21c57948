//! A person who logs in with a password, for `gantry rescue`: the service account may be what is broken.

use aws_lc_rs::digest::{SHA256, digest};
use serde_json::{Value, json};
use std::fmt::Write as _;
use std::sync::Arc;

use super::Client;
use super::error::ApiError;
use super::survey::{Trouble, trouble};
use super::wire::{Ask, Endpoint};
use crate::secret::Secret;

/// Why somebody was not logged in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LoginTrouble {
    /// No such user, or another password. 9.0 says no more when it wants a second factor either.
    Wrong,
    /// A second factor is wanted: by `totp`, or a code that was sent by `email`.
    WantsCode(String),
    /// The second factor was wrong.
    WrongCode,
    /// Too many failed: for some minutes nobody gets in, from this address or as this user.
    Blocked,
    /// The account is deactivated.
    Inactive,
    /// Anything else.
    Other(Trouble),
}

/// A second factor of somebody who calls, as `X-2fa-Method` and `X-2fa-Code` carry it.
#[derive(Clone, Debug)]
pub struct SecondFactor {
    /// `totp`, `email` or `password`.
    pub method: &'static str,
    /// The code; of `password` what [`password_factor`] makes of it.
    pub code: Secret,
}

/// The fall-back of an account that has a password and no second factor (`PasswordCheckFallback.ts`): the lower-case
/// hex of its SHA-256.
pub fn password_factor(password: &Secret) -> SecondFactor {
    let hash = digest(&SHA256, password.expose().as_bytes());
    let code = hash.as_ref().iter().fold(String::new(), |mut code, byte| {
        // Writing to a string cannot fail.
        let _ = write!(code, "{byte:02x}");
        code
    });
    SecondFactor { method: "password", code: Secret::new(code) }
}

impl Client {
    /// Logs somebody in by name or e-mail address (`POST login`): their id, and a login token that has to be logged out.
    ///
    /// # Errors
    /// See [`LoginTrouble`].
    pub async fn log_in(&self, name: &str, password: &Secret, code: Option<&Secret>) -> Result<(String, Secret), LoginTrouble> {
        let mut body = json!({ "user": name, "password": password.expose() });
        if let Some(code) = code {
            body["code"] = code.expose().into();
        }
        let answer = match self.send(Ask::new(Endpoint::Login).body(body)).await {
            Ok(answer) => answer,
            Err(error) => return Err(why(error)),
        };
        let text = |name: &str| answer.pointer(&format!("/data/{name}")).and_then(Value::as_str).filter(|text| !text.is_empty());
        match (text("userId"), text("authToken")) {
            (Some(id), Some(token)) => Ok((id.to_owned(), Secret::new(token))),
            _ => Err(LoginTrouble::Other(Trouble::Unavailable("login answered without a token".to_owned()))),
        }
    }

    /// The same, calling with this second factor where one is wanted.
    #[must_use]
    pub fn with_second_factor(&self, factor: SecondFactor) -> Self {
        Self { second_factor: Some(Arc::new(factor)), ..self.clone() }
    }
}

fn why(error: ApiError) -> LoginTrouble {
    let ApiError::Rejected(no) = &error else { return LoginTrouble::Other(trouble(error)) };
    match no.kind.as_str() {
        "totp-required" => LoginTrouble::WantsCode(no.method.clone().unwrap_or_else(|| "totp".to_owned())),
        "totp-invalid" | "totp-max-attempts" => LoginTrouble::WrongCode,
        "error-login-blocked-for-ip" | "error-login-blocked-for-user" => LoginTrouble::Blocked,
        "error-user-is-not-activated" => LoginTrouble::Inactive,
        _ if no.status == http::StatusCode::UNAUTHORIZED => LoginTrouble::Wrong,
        _ => LoginTrouble::Other(trouble(error)),
    }
}

#[cfg(test)]
mod tests {
    use super::super::fake::{Fake, Step, config};
    use super::*;

    #[test]
    fn the_fall_back_is_what_rocketchat_compares() {
        let factor = password_factor(&Secret::new("abc"));
        assert_eq!(factor.code.expose(), "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
    }

    #[tokio::test(start_paused = true)]
    async fn each_way_to_keep_somebody_out_is_told_apart() {
        for (status, answer, expected) in [
            (401, json!({ "status": "error", "error": "Unauthorized", "message": "Unauthorized" }), LoginTrouble::Wrong),
            (401, json!({ "success": false, "error": "unauthorized" }), LoginTrouble::Wrong),
            (401, json!({ "status": "error", "error": 403, "message": "User has no password set" }), LoginTrouble::Wrong),
            (
                401,
                json!({ "status": "error", "error": "totp-required", "message": "TOTP Required", "details": { "method": "email" } }),
                LoginTrouble::WantsCode("email".into()),
            ),
            (
                401,
                json!({ "status": "error", "error": "totp-required", "message": "TOTP Required" }),
                LoginTrouble::WantsCode("totp".into()),
            ),
            (401, json!({ "status": "error", "error": "totp-invalid", "message": "TOTP Invalid" }), LoginTrouble::WrongCode),
            (401, json!({ "status": "error", "error": "error-login-blocked-for-ip", "message": "x" }), LoginTrouble::Blocked),
            (401, json!({ "status": "error", "error": "error-user-is-not-activated", "message": "x" }), LoginTrouble::Inactive),
        ] {
            let fake = Fake::new();
            fake.script("login", [Step::Reply(status, answer.clone())]);
            let outcome = fake.client(&config()).log_in("ada", &Secret::new("x"), None).await;
            assert_eq!(outcome.map(drop), Err(expected), "{answer}");
        }
        let fake = Fake::new();
        fake.script("login", [Step::Reply(200, json!({ "status": "success", "data": { "userId": "u", "authToken": "t" } }))]);
        let (id, token) = fake.client(&config()).log_in("ada", &Secret::new("x"), None).await.unwrap();
        assert_eq!((id.as_str(), token.expose()), ("u", "t"));
    }
}
