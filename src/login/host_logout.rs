//! Whoever logs out of the chat is logged out of the host app too, where `session.host_logout_url` asks for that.

use std::time::Duration;

use super::Login;
use crate::tokens::Found;

/// Before each further try. There is one only where nothing can have been acted on.
const PAUSES: [Duration; 2] = [Duration::from_secs(1), Duration::from_secs(4)];

impl Login {
    /// Calls the host app's logout for the host session behind a chat session, in the background.
    pub(super) fn log_out_at_host(&self, token: &str) {
        let Some(logout) = self.0.policy.host_logout.clone() else { return };
        let Found::Living(chat) = self.find(token) else { return };
        let known = chat.standing().and_then(|standing| Some((standing.session, standing.credentials.clone()?)));
        let Some((session, credentials)) = known else {
            tracing::warn!("somebody logged out of the chat whose host session is not known: the host app is not told");
            self.0.metrics.host_logout(false);
            return;
        };
        let inner = std::sync::Arc::clone(&self.0);
        self.0.control.spawn(async move {
            inner.sessions.forget(&session).await;
            let host = &inner.sessions.host;
            let mut outcome = host.log_out(&logout, &credentials).await;
            for pause in PAUSES {
                if !outcome.as_ref().is_err_and(|error| error.again) {
                    break;
                }
                tokio::time::sleep(pause).await;
                outcome = host.log_out(&logout, &credentials).await;
            }
            // Somebody may have asked while it was under way.
            inner.sessions.forget(&session).await;
            inner.metrics.host_logout(outcome.is_ok());
            match outcome {
                Ok(()) => tracing::info!("the host app was told that somebody logged out of the chat"),
                Err(error) => {
                    let hint = "the person is still signed in at the host app; see session.host_logout_url";
                    tracing::warn!(error = %error.why, hint, "the host app's logout failed");
                }
            }
        });
    }
}
