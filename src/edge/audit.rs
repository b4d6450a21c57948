//! What is said of logins and logouts: in the log under `gantry::audit`, and in the journal that the status
//! page shows. People appear in both as `log.audit` allows.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use crate::config::{self, Config};
use crate::error::{Refusal, Whom};
use crate::journal::Refused;
use crate::login::SignedIn;
use crate::metrics::{Metrics, NativeLogin};
use crate::peer::RequestId;

/// What stands for a person whom nobody shall see.
const NOBODY: &str = "***";

/// Tells of logins and logouts.
#[derive(Clone, Debug)]
pub struct Audit {
    shows: config::Audit,
    source: &'static str,
    metrics: Arc<Metrics>,
}

/// A request that something is said of.
#[derive(Clone, Copy, Debug)]
pub struct Of<'a> {
    /// Its correlation id.
    pub id: &'a RequestId,
    /// Where it came from.
    pub client: IpAddr,
    /// How long it took.
    pub took: Duration,
}

impl Audit {
    /// People appear as `log.audit` says; `source` is the identity source's name.
    pub fn new(config: &Config, source: &'static str, metrics: Arc<Metrics>) -> Self {
        metrics.expect_logins(source);
        Self { shows: config.log.audit, source, metrics }
    }

    /// Somebody was signed in, or was not.
    pub fn login(&self, of: Of<'_>, outcome: &Result<SignedIn, Refusal>) {
        match outcome {
            Ok(signed_in) => self.signed_in(of, signed_in),
            Err(refusal) => self.refused(of, "login", refusal),
        }
    }

    fn signed_in(&self, of: Of<'_>, signed_in: &SignedIn) {
        let SignedIn { identity, username, user_id, created, reused, .. } = signed_in;
        let label = self.person(&identity.id, username);
        self.metrics.journal().signed_in(&identity.id, label, *created);
        if self.shows == config::Audit::Off {
            return;
        }
        let (id, client, source, took_ms) = (of.id, self.client(of.client), self.source, millis(of.took));
        let shown = self.shown(&identity.id);
        // A hash stands for the whole person.
        let (username, user_id) = self.named().then_some((&**username, &**user_id)).unzip();
        tracing::info!(
            target: "gantry::audit",
            event = "login", %id, client, source, outcome = "signed_in", identity = shown, username, user_id, created, reused, took_ms,
            "signed in"
        );
    }

    /// A login, or the question who somebody is, was refused.
    pub fn refused(&self, of: Of<'_>, event: &'static str, refusal: &Refusal) {
        let whom = refusal.whom.as_deref();
        let known = whom.filter(|whom| !whom.identity.is_empty());
        let detail = self.detail(&refusal.detail, whom, of.client);
        let client = self.client(of.client);
        if event == "login" {
            self.metrics.journal().refused(Refused {
                at: SystemTime::now(),
                kind: refusal.kind,
                id: *of.id,
                client: client.clone(),
                who: known.and_then(|whom| self.person(&whom.identity, &whom.username)),
                detail: detail.clone(),
            });
        }
        if self.shows == config::Audit::Off {
            return;
        }
        let (id, source, outcome, took_ms) = (of.id, self.source, refusal.kind.code(), millis(of.took));
        let identity = known.and_then(|whom| self.shown(&whom.identity));
        let username = known.filter(|_| self.named()).map(|whom| whom.username.as_str());
        tracing::info!(
            target: "gantry::audit",
            event, %id, client, source, outcome, identity, username, detail, took_ms, "not signed in"
        );
    }

    /// Chat sessions were ended, or were not.
    pub fn logout(&self, of: Of<'_>, outcome: &Result<usize, Refusal>) {
        self.ended(of, "logout", outcome);
    }

    /// The same, as an identity provider has told us to.
    pub fn back_channel(&self, of: Of<'_>, outcome: &Result<usize, Refusal>) {
        self.ended(of, "back_channel_logout", outcome);
    }

    fn ended(&self, of: Of<'_>, event: &'static str, outcome: &Result<usize, Refusal>) {
        if self.shows == config::Audit::Off {
            return;
        }
        let (id, client) = (of.id, self.client(of.client));
        match outcome {
            Ok(ended) => tracing::info!(target: "gantry::audit", event, %id, client, ended, "chat sessions ended"),
            Err(refusal) => {
                let detail = self.detail(&refusal.detail, refusal.whom.as_deref(), of.client);
                tracing::info!(target: "gantry::audit", event, %id, client, outcome = refusal.kind.code(), detail, "logout refused");
            }
        }
    }

    /// Somebody used the native login, or tried to. Who it is Rocket.Chat alone learns, later.
    pub fn native(&self, of: Of<'_>, outcome: NativeLogin) {
        if self.shows == config::Audit::Off {
            return;
        }
        let (id, client, outcome) = (of.id, self.client(of.client), outcome.as_str());
        tracing::info!(target: "gantry::audit", event = "native_login", %id, client, outcome, "native login");
    }

    fn named(&self) -> bool {
        self.shows == config::Audit::Names
    }

    /// A piece of personal data, as far as it may be shown.
    fn shown(&self, text: &str) -> Option<String> {
        match self.shows {
            config::Audit::Names => Some(text.to_owned()),
            config::Audit::Hashed => Some(self.metrics.journal().hash(text)),
            config::Audit::Off => None,
        }
    }

    fn client(&self, client: IpAddr) -> Option<String> {
        self.shown(&client.to_string())
    }

    /// How the status page calls a person.
    fn person(&self, identity: &str, username: &str) -> Option<String> {
        self.shown(if self.named() { username } else { identity })
    }

    /// The words for the operator, with what may name a person replaced.
    fn detail(&self, detail: &str, whom: Option<&Whom>, client: IpAddr) -> String {
        if self.named() {
            return detail.to_owned();
        }
        let address = client.to_string();
        let text = replaced(detail, &address, &self.shown(&address).unwrap_or_else(|| NOBODY.to_owned()));
        let Some(whom) = whom else { return text };
        let known = Some(whom.identity.as_str()).filter(|id| !id.is_empty());
        let instead = known.and_then(|id| self.shown(id)).unwrap_or_else(|| NOBODY.to_owned());
        let mut words: Vec<&str> = [&whom.identity, &whom.username].into_iter().chain(&whom.words).map(String::as_str).collect();
        // An address before the name that it begins with.
        words.sort_by_key(|word| std::cmp::Reverse(word.len()));
        words.iter().fold(text, |text, word| replaced(&text, word, &instead))
    }
}

fn millis(took: Duration) -> u64 {
    u64::try_from(took.as_millis()).unwrap_or(u64::MAX)
}

/// `text` with `word`, where it stands for itself and in whatever case, replaced.
fn replaced(text: &str, word: &str, instead: &str) -> String {
    let Ok(pattern) = regex::Regex::new(&format!("(?i){}", regex::escape(word))) else { return instead.to_owned() };
    if word.is_empty() {
        return text.to_owned();
    }
    let mut out = String::with_capacity(text.len());
    let mut copied = 0;
    for found in pattern.find_iter(text) {
        let alone = !text[..found.start()].ends_with(char::is_alphanumeric) && !text[found.end()..].starts_with(char::is_alphanumeric);
        if alone {
            out.push_str(&text[copied..found.start()]);
            out.push_str(instead);
            copied = found.end();
        }
    }
    out.push_str(&text[copied..]);
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::example;
    use crate::error::RefusalKind;

    fn audit(shows: &str) -> Audit {
        Audit::new(&example(&[("log.audit", shows)]), "header", Metrics::new(1))
    }

    fn refusal() -> Refusal {
        let detail =
            "the account ada.l-g1f09 of Ada.L <ada.l@example.com>, called Ada Lovelace, from 192.0.2.7, is not 42 but 420 or adalbert";
        Refusal::new(RefusalKind::IdentityConflict, "No.", detail).naming("ada.l-g1f09").about(
            "42",
            "ada.l",
            ["ada.l@example.com", "Ada Lovelace"],
        )
    }

    fn of(id: &RequestId) -> Of<'_> {
        Of { id, client: "192.0.2.7".parse().unwrap(), took: Duration::ZERO }
    }

    #[test]
    fn nobody_is_named_where_the_audit_does_not_allow_it() {
        let id = RequestId::random();
        for (shows, named) in [("names", true), ("hashed", false), ("off", false)] {
            let audit = audit(shows);
            audit.refused(of(&id), "login", &refusal());
            let kept = audit.metrics.journal().snapshot().refusals.remove(0);
            let said = format!("{kept:?}");
            for word in ["ada.l", "Ada", "example.com", "Lovelace", "192.0.2.7"] {
                assert_eq!(said.contains(word), named, "{shows}: {word} in {said}");
            }
            assert!(said.contains("420 or adalbert"), "only whole words are names: {said}");
            assert_eq!(kept.who.is_some(), shows != "off");
            assert_eq!((kept.id, kept.kind), (id, RefusalKind::IdentityConflict));
        }
    }

    #[test]
    fn a_hash_is_the_same_for_the_same_person() {
        let audit = audit("hashed");
        let id = RequestId::random();
        audit.refused(of(&id), "login", &refusal());
        audit.refused(of(&id), "login", &refusal());
        audit.refused(of(&id), "session", &refusal());
        let kept = audit.metrics.journal().snapshot().refusals;
        assert_eq!(kept.len(), 2, "only logins are kept");
        assert_eq!(kept[0].who, kept[1].who);
        assert!(kept[0].detail.contains(kept[0].who.as_deref().unwrap()), "{}", kept[0].detail);
    }

    #[test]
    fn words_are_replaced_as_they_stand() {
        for (text, word, expected) in [
            ("ada, Ada and adam", "ada", "X, X and adam"),
            ("(a.b) a-b", "a.b", "(X) a-b"),
            ("nobody", "", "nobody"),
            ("Ünal ünal", "ünal", "X X"),
            ("x*(", "x*(", "X"),
        ] {
            assert_eq!(replaced(text, word, "X"), expected, "{text} {word}");
        }
    }
}
