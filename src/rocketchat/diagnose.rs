//! What is really wrong when `users.createToken` says "Not authorized": an unset environment variable, a
//! wrong secret and a missing permission all look alike. Minting for the service account itself tells
//! them apart, since that needs no permission.

use std::time::Duration;

use super::error::ApiError;
use super::token::is_not_authorized;
use super::wire::Endpoint;
use super::{Client, SHORT, Version, words};
use crate::error::Refusal;

/// How long a diagnosis stands, so that a storm of logins does not probe again and again.
const STANDS: Duration = Duration::from_mins(1);

/// How a trial of minting came out.
#[derive(Clone, Debug)]
pub enum Minting {
    /// A token came, and was logged out again.
    Works,
    /// A token came, and could not be logged out.
    NotLoggedOut(Refusal),
    /// This version wants a secret, and none is configured here.
    NoSecretHere,
    /// Refused: the variable in the workspace's environment is unset, or its secret is another one.
    Off,
    /// It could not be tried.
    Failed(Refusal),
}

impl Client {
    /// Why minting is refused, in words for this version.
    pub async fn diagnose(&self) -> Refusal {
        let version = self.version().await;
        if let Some(version) = version.filter(|version| *version >= Version::SECRET_IN_BODY)
            && self.shared.create_token_secret.is_none()
        {
            return words::secret_unset_here(version);
        }
        self.shared.diagnosis.get_or(|| self.probe(version)).await
    }

    /// Whether login tokens can be minted at all, tried with one for the service account itself: that needs no
    /// permission. The token is logged out again.
    pub async fn try_minting(&self) -> Minting {
        let version = self.version().await;
        let wants_secret = version.is_some_and(|version| version >= Version::SECRET_IN_BODY);
        if wants_secret && self.shared.create_token_secret.is_none() {
            return Minting::NoSecretHere;
        }
        match self.mint_for_self().await {
            Ok(None) => Minting::Works,
            Ok(Some(refusal)) => Minting::NotLoggedOut(refusal),
            Err(ApiError::Rejected(no)) if is_not_authorized(&no) && !no.is_doubtful_401() => Minting::Off,
            Err(error) => Minting::Failed(self.explain(Endpoint::CreateToken, error).await),
        }
    }

    async fn probe(&self, version: Option<Version>) -> (Refusal, Duration) {
        match self.mint_for_self().await {
            Ok(left) => {
                if let Some(refusal) = left {
                    tracing::warn!(error = %refusal, "the token of a probe could not be logged out");
                }
                (words::permission_missing("user-generate-access-token"), STANDS)
            }
            // 9.0 may say no more than "unauthorized" to a wrong token.
            Err(ApiError::Rejected(no)) if no.is_doubtful_401() && matches!(self.own().await, Err(ApiError::Rejected(_))) => {
                (words::wrong_service_account(), SHORT)
            }
            Err(ApiError::Rejected(no)) if is_not_authorized(&no) => {
                (words::minting_off(version, self.shared.create_token_secret.is_some()), STANDS)
            }
            Err(error) => (self.explain(Endpoint::CreateToken, error).await, SHORT),
        }
    }

    /// `Ok` holds why the token could not be logged out, if so.
    async fn mint_for_self(&self) -> Result<Option<Refusal>, ApiError> {
        let own = self.shared.service_id.as_str();
        let token = self.mint_as_told(own).await?;
        Ok(self.log_out(own, &token).await.err())
    }

    /// An error of a call in words.
    pub(super) async fn explain(&self, endpoint: Endpoint, error: ApiError) -> Refusal {
        if let ApiError::Rejected(no) = &error
            && no.is_doubtful_401()
            && !matches!(endpoint, Endpoint::OwnMe | Endpoint::Info)
            && self.own().await.is_ok()
        {
            return words::permission_for(endpoint, no);
        }
        words::explain(endpoint, error)
    }
}
