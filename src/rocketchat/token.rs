//! Login tokens: minted, looked after, and ended one by one. No call here touches a token that is not
//! named in it: `users.logout` and its like would wipe a user's personal access tokens too.

use serde_json::{Value, json};

use super::error::{ApiError, Rejection};
use super::wire::{Ask, Endpoint};
use super::{Client, Version, YOUNG, words};
use crate::error::Refusal;
use crate::secret::Secret;

/// Bytes of a login token at most; Rocket.Chat's have 43. They are kept for as long as they live.
const LONGEST: usize = 1024;

/// Why no token was minted.
#[derive(Clone, Debug)]
pub enum MintError {
    /// There is no such user any more.
    UserGone,
    /// Anything else.
    Refused(Refusal),
}

impl Client {
    /// Mints a login token (`users.createToken`). Rocket.Chat does so for inactive users too: check first.
    pub async fn mint_token(&self, user_id: &str) -> Result<Secret, MintError> {
        if user_id == self.shared.service_id {
            return Err(MintError::Refused(words::service_account_as_user()));
        }
        match self.mint_as_told(user_id).await {
            Ok(token) => Ok(token),
            Err(ApiError::Rejected(no)) if no.is_unknown_user() => Err(MintError::UserGone),
            Err(ApiError::Rejected(no)) if is_not_authorized(&no) => Err(MintError::Refused(self.diagnose().await)),
            Err(error) => Err(MintError::Refused(self.explain(Endpoint::CreateToken, error).await)),
        }
    }

    /// Mints in the form of the workspace's version; once in the other form if that one is refused.
    pub(super) async fn mint_as_told(&self, user_id: &str) -> Result<Secret, ApiError> {
        let secret = self.shared.create_token_secret.as_ref();
        let with_secret = match self.version().await {
            Some(version) if version >= Version::SECRET_IN_BODY && secret.is_none() => {
                // Without the secret it cannot work: no need to ask.
                return Err(ApiError::Rejected(not_authorized()));
            }
            Some(version) => version >= Version::SECRET_IN_BODY,
            None => secret.is_some(),
        };
        let refused = match self.mint_once(user_id, with_secret).await {
            Err(ApiError::Rejected(no)) if no.is_schema() || is_not_authorized(&no) => no,
            other => return other,
        };
        // Refused without effect. Perhaps the workspace was upgraded under us, or never told its version.
        self.shared.version.doubt(YOUNG);
        let other = match self.version().await {
            Some(version) => version >= Version::SECRET_IN_BODY,
            None if refused.is_schema() => !with_secret,
            None => with_secret,
        };
        if other == with_secret || (other && secret.is_none()) {
            return Err(ApiError::Rejected(refused));
        }
        self.mint_once(user_id, other).await
    }

    async fn mint_once(&self, user_id: &str, with_secret: bool) -> Result<Secret, ApiError> {
        let mut body = json!({ "userId": user_id });
        if let Some(secret) = self.shared.create_token_secret.as_ref().filter(|_| with_secret) {
            body["secret"] = json!(secret.get().expose());
        }
        let answer = self.send(self.as_service(Endpoint::CreateToken).body(body)).await?;
        let data = answer.get("data").unwrap_or(&answer);
        let token = data.get("authToken").and_then(Value::as_str).filter(|token| (1..=LONGEST).contains(&token.len()));
        // A token of anybody else is not to be handed out, whatever went wrong there.
        let his = data.get("userId").and_then(Value::as_str).is_none_or(|id| id == user_id);
        token.filter(|_| his).map(Secret::new).ok_or_else(|| ApiError::Unavailable {
            why: "createToken answered without a token of that user".to_owned(),
            acted: true,
            retry_after: None,
        })
    }

    /// Whether a user's token still logs in; `None` when it could not be told.
    pub async fn token_alive(&self, user_id: &str, token: &Secret) -> Option<bool> {
        match self.send(Ask::new(Endpoint::Me).by(user_id, token.clone()).apart()).await {
            Ok(me) => (me.get("_id").and_then(Value::as_str) == Some(user_id)).then_some(true),
            Err(ApiError::Rejected(no)) if no.status == http::StatusCode::UNAUTHORIZED || no.is_not_logged_in() => Some(false),
            Err(_) => None,
        }
    }

    /// Ends this one token, with itself. A token that is dead already is fine.
    pub async fn log_out(&self, user_id: &str, token: &Secret) -> Result<(), Refusal> {
        match self.send(Ask::new(Endpoint::Logout).by(user_id, token.clone()).apart().body(json!({}))).await {
            Ok(_) => Ok(()),
            Err(ApiError::Rejected(no)) if no.status == http::StatusCode::UNAUTHORIZED || no.is_not_logged_in() => Ok(()),
            Err(error) => Err(self.explain(Endpoint::Logout, error).await),
        }
    }
}

/// Wrong secret, unset variable and missing permission all look like this.
pub(super) fn is_not_authorized(no: &Rejection) -> bool {
    no.is_permission() && !no.is_two_factor() && !no.is_not_logged_in()
}

fn not_authorized() -> Rejection {
    Rejection {
        status: http::StatusCode::BAD_REQUEST,
        kind: "error-not-authorized".to_owned(),
        text: "Not authorized".to_owned(),
        field: None,
        method: None,
    }
}
