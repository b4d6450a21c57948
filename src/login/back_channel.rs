//! An identity provider says that somebody's session has ended (OpenID Connect Back-Channel Logout 1.0): the chat
//! sessions that came of it end.

use std::net::IpAddr;
use std::time::Duration;

use super::Login;
use super::standing::By;
use crate::error::Refusal;
use crate::identity::logout_token::{BadLogoutToken, LogoutToken};
use crate::metrics::LogoutTokenOutcome;
use crate::tokens::{Chat, Ending, Standing};

/// How long the provider waits for the workspace at most. What was begun then goes on.
const PROMPTLY: Duration = Duration::from_secs(2);

/// Why a logout token came to nothing.
#[derive(Clone, Debug, PartialEq)]
pub enum BackChannelRefusal {
    /// Nothing says what logout tokens are to be checked with.
    NotConfigured,
    /// It is wrong (§2.6), in words for the provider and the log.
    Invalid(String),
    /// It cannot be checked now, or this client has sent too many wrong ones.
    Later(Refusal),
}

impl Login {
    /// Ends the chat sessions that a logout token is about, and answers how many they were. `client` is who sent it.
    ///
    /// # Errors
    /// See [`BackChannelRefusal`].
    pub async fn back_channel(&self, client: IpAddr, token: &str) -> Result<usize, BackChannelRefusal> {
        let outcome = self.read_logout_token(client, token).await;
        self.0.metrics.logout_token(match &outcome {
            Ok(_) => LogoutTokenOutcome::Good,
            Err(BackChannelRefusal::NotConfigured) => LogoutTokenOutcome::NotConfigured,
            Err(BackChannelRefusal::Invalid(_)) => LogoutTokenOutcome::Invalid,
            Err(BackChannelRefusal::Later(refusal)) if refusal.kind == crate::error::RefusalKind::RateLimited => {
                LogoutTokenOutcome::RateLimited
            }
            Err(BackChannelRefusal::Later(_)) => LogoutTokenOutcome::Unchecked,
        });
        Ok(self.end_as_told(&outcome?).await)
    }

    async fn read_logout_token(&self, client: IpAddr, token: &str) -> Result<LogoutToken, BackChannelRefusal> {
        let inner = &self.0;
        let Some(checks) = inner.sessions.host.logout_tokens() else {
            self.admit_client(client).map_err(BackChannelRefusal::Later)?;
            return Err(BackChannelRefusal::NotConfigured);
        };
        // Before the signature is checked, which is work.
        let chance = inner.sessions.rates.unknown(Some(client)).map_err(BackChannelRefusal::Later)?;
        let said = match checks.read(token).await {
            Ok(said) => said,
            Err(BadLogoutToken::Invalid(why)) => return Err(BackChannelRefusal::Invalid(why)),
            Err(BadLogoutToken::Unchecked(refusal)) => {
                chance.put_back();
                return Err(BackChannelRefusal::Later(refusal));
            }
        };
        chance.put_back();
        if !inner.standings.is_new(said.id, said.until) {
            return Err(BackChannelRefusal::Invalid("a token with this jti has come before".to_owned()));
        }
        Ok(said)
    }

    async fn end_as_told(&self, said: &LogoutToken) -> usize {
        let standings = &self.0.standings;
        if let Some(session) = &said.sid {
            standings.sid_is_over(session);
        }
        let theirs = said.subject.as_ref().map(|id| standings.by(&By::Identity(id.clone())));
        let (meant, all_of) = match (&said.sid, theirs) {
            (Some(session), Some(theirs)) if theirs.iter().any(|(_, standing)| standing.sid.is_some()) => {
                (theirs.into_iter().filter(|(_, standing)| standing.sid.as_ref() == Some(session)).collect(), None)
            }
            (Some(session), None) => (standings.by(&By::Sid(session.clone())), None),
            // Our sessions of that person do not say which one they are.
            (_, theirs) => (theirs.unwrap_or_default(), said.subject.clone()),
        };
        if let (Some(subject), None) = (&said.subject, &said.sid) {
            standings.subject_is_over(subject, said.issued);
        }
        let mut ended = meant.len();
        for (chat, standing) in meant {
            self.end_told(&chat, &standing).await;
        }
        if let Some(identity) = all_of {
            // Those that are not remembered with their host session. They end at once; the workspace may take its time.
            ended += tokio::time::timeout(PROMPTLY, self.sign_out_everywhere(&identity)).await.unwrap_or_default();
        }
        ended
    }

    async fn end_told(&self, chat: &Chat, standing: &Standing) {
        let inner = &self.0;
        inner.flights.end(&standing.session);
        inner.standings.left(standing.session);
        // Nobody else can say that a JWT has ended.
        if inner.sessions.host.judges_alone() {
            inner.standings.session_is_over(standing.session);
        }
        self.end_behind(chat, standing, Ending::BackChannel).await;
    }
}
