//! The chat session in a browser and the host session there: kept in step.
//!
//! A browser tells by its [`Binding`] which login token it was given last. Whatever shows that the host session is
//! another one's now, or gone, ends that token at the workspace, with itself, and with it its sockets. Tokens that are
//! not ours are nobody's business here: a person's own login, personal access tokens, other devices.

use std::sync::Arc;
use std::time::Duration;

use http::HeaderMap;

use super::binding::{Binding, Bindings};
use super::host::Presented;
use super::{Login, SignedIn};
use crate::error::{Refusal, RefusalKind};
use crate::identity::{Credentials, Validated};
use crate::peer::Peer;
use crate::secret::Secret;
use crate::tokens::{Chat, Ending, Found};

/// How long an answer waits for the workspace to have ended a token. Until it has, the token is refused here.
const END_PATIENCE: Duration = Duration::from_millis(1_500);

/// How the chat session in a browser stands to the host session there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// They belong together, or it cannot be told: the host app does not answer.
    Stays,
    /// The host session belongs to somebody else, or there is none any more: the chat session has been ended, and the
    /// page has to forget it.
    Ended,
    /// The person has logged out of the chat.
    SignedOut,
}

/// What a request tells that carries no host session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Missing {
    /// Its browser has none any more.
    Tells,
    /// Nothing: browsers keep some cookies back from requests that another site's page begins.
    TellsNothing,
}

/// How the login token that a page holds stands to the host session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Held {
    /// The page holds none.
    None,
    /// It is the chat session of whom the host session belongs to.
    Same,
    /// It was the chat session of somebody else, and has been ended.
    Other,
    /// It has ended.
    Ended,
    /// It is none of ours.
    Unknown,
}

impl Held {
    /// The word in the answer of the session path, to a page that holds one.
    pub fn word(self) -> Option<&'static str> {
        match self {
            Self::None => None,
            Self::Same => Some("same"),
            Self::Other => Some("other"),
            Self::Ended => Some("ended"),
            Self::Unknown => Some("unknown"),
        }
    }
}

/// What a browser brought when it opened a socket, where that says more than we remember: after a restart, or at another
/// replica.
#[derive(Debug)]
pub struct Came {
    binding: Binding,
    credentials: Result<Credentials, Refusal>,
    missing: Missing,
}

impl Login {
    /// What is known of a login token that somebody uses.
    pub fn find(&self, token: &str) -> Found {
        self.0.tokens.find(token)
    }

    /// What a request brings for [`Self::known`]; `None` where we remember as much.
    pub fn came(&self, headers: &HeaderMap, peer: &Peer, missing: Missing) -> Option<Came> {
        let binding = self.bindings().of(headers)?;
        (self.find(binding.token.expose()) == Found::Unknown).then(|| Came {
            binding,
            credentials: self.credentials(headers, peer),
            missing,
        })
    }

    /// The chat session that a request's browser has, by its cookie.
    pub fn chat_by_cookie(&self, headers: &HeaderMap, peer: &Peer, missing: Missing) -> Option<Chat> {
        let came = Came { binding: self.bindings().of(headers)?, credentials: self.credentials(headers, peer), missing };
        match self.known(came.binding.token.expose(), Some(&came)) {
            Found::Living(chat) => Some(chat),
            Found::Over | Found::Unknown => None,
        }
    }

    /// What is known of a login token that somebody signs in with, by what they `came` with too. One that is not remembered
    /// is known by its seal, and followed from here on: by the host session that came along, at the bounded rate of all
    /// such looks.
    pub fn known(&self, token: &str, came: Option<&Came>) -> Found {
        let found = self.find(token);
        let Some(Came { binding, credentials, missing }) = came.filter(|came| found == Found::Unknown && came.binding.token.matches(token))
        else {
            return found;
        };
        if binding.signed_out {
            return Found::Over;
        }
        // See `verdict`.
        if binding.rides_along
            && *missing == Missing::Tells
            && credentials.as_ref().is_err_and(|refusal| refusal.kind == RefusalKind::NoSession)
        {
            self.0.end_token(&binding.user_id, &binding.token, Ending::SessionEnded);
            return Found::Over;
        }
        let Some(chat) = self.0.tokens.take_over(&binding.user_id, &binding.identity, binding.session, &binding.token) else {
            return found;
        };
        self.0.remember(&binding.identity, &binding.user_id);
        self.0.standings.presume(&chat, binding, credentials.as_ref().ok());
        Found::Living(chat)
    }

    /// Ends a chat session: its sockets close, its token is never handed out again and is logged out at the workspace,
    /// in the background and for as long as that takes.
    pub fn end(&self, chat: &Chat, why: Ending) {
        self.0.end_token(chat.user_id(), chat.token(), why);
    }

    /// The cookies that tell which chat session a browser has.
    pub fn bindings(&self) -> &Bindings {
        &self.0.bindings
    }

    /// What a browser is to be told of its login: the same as before needs no cookie.
    pub fn bind(&self, signed_in: &SignedIn, credentials: &Credentials, before: Option<&Binding>) -> Option<http::HeaderValue> {
        let now = Binding {
            user_id: signed_in.user_id.clone(),
            token: signed_in.token.clone(),
            identity: signed_in.identity.id.clone(),
            session: credentials.key,
            rides_along: credentials.ride_along(),
            signed_out: false,
        };
        if before == Some(&now) { None } else { self.0.bindings.cookie(&now) }
    }

    /// Ends what a browser had before it was signed in as `signed_in`, where that is something else: the chat session
    /// of another person, or a token of the same one that nobody uses any more.
    pub async fn replace(&self, before: &Binding, signed_in: &SignedIn) {
        if before.token == signed_in.token {
            return;
        }
        let why = if before.identity == signed_in.identity.id { Ending::Replaced } else { Ending::Switched };
        // The same person's former token may be that of another host session as well, which goes on.
        if why == Ending::Replaced && self.0.tokens.sessions_of(before.token.expose()).iter().any(|session| *session != before.session) {
            return;
        }
        self.end_binding(before, why).await;
    }

    /// The chat session of a browser, if it goes on and is remembered.
    pub fn chat_of(&self, binding: &Binding) -> Option<Chat> {
        match self.0.tokens.find(binding.token.expose()) {
            Found::Living(chat) => Some(chat),
            Found::Over | Found::Unknown => None,
        }
    }

    /// Looks whether the chat session of a browser still belongs to the host session there, and ends it at the
    /// workspace if not. `credentials` are those of a request of the browser's.
    pub async fn verdict(&self, binding: &Binding, credentials: Result<Credentials, Refusal>, missing: Missing) -> Verdict {
        if self.is_signed_out(binding) {
            return Verdict::SignedOut;
        }
        if self.0.tokens.find(binding.token.expose()) == Found::Over {
            return Verdict::Ended;
        }
        let same_session = credentials.as_ref().is_ok_and(|credentials| credentials.key == binding.session);
        let shown = credentials.as_ref().ok().cloned();
        let rides_along = shown.as_ref().is_none_or(Credentials::ride_along);
        let who = match credentials {
            Ok(credentials) => self.who(credentials).await,
            Err(refusal) => Err(refusal),
        };
        let missed = missing == Missing::Tells && binding.rides_along && rides_along;
        match who {
            Ok(validated) if validated.identity.id == binding.identity => {
                if let Some(shown) = &shown {
                    self.goes_on(binding.token.expose(), shown, &validated);
                }
                Verdict::Stays
            }
            Ok(_) => {
                self.end_binding(binding, Ending::Switched).await;
                Verdict::Ended
            }
            // What is not sent along by itself is not missed where it is not there.
            Err(refusal) if refusal.kind == RefusalKind::NoSession && (missed || same_session) => {
                self.end_binding(binding, Ending::SessionEnded).await;
                Verdict::Ended
            }
            Err(refusal) if let Some(ending) = disabled(&refusal, &binding.identity) => {
                self.end_binding(binding, ending).await;
                Verdict::Ended
            }
            Err(_) => Verdict::Stays,
        }
    }

    /// How the login token that a page holds stands to the host session there. What does not belong together any more
    /// is ended.
    pub async fn judge(
        &self,
        token: &str,
        shown: Option<&Credentials>,
        binding: Option<&Binding>,
        who: &Result<Validated, Refusal>,
    ) -> Held {
        let bound = binding.filter(|binding| binding.token.matches(token));
        let chat = match self.0.tokens.find(token) {
            Found::Over => return Held::Ended,
            Found::Living(chat) => Some(chat),
            Found::Unknown => None,
        };
        // A token of ours that we do not remember is known by its seal.
        let (user_id, identity) = match (&chat, bound) {
            (Some(chat), _) => (chat.user_id(), &**chat.identity()),
            (None, Some(bound)) => (&bound.user_id, &*bound.identity),
            (None, None) => return Held::Unknown,
        };
        match who {
            Ok(validated) => {
                if validated.identity.id == identity {
                    if let Some(shown) = shown {
                        self.goes_on(token, shown, validated);
                    }
                    return Held::Same;
                }
                self.end_and_wait(user_id, &Secret::new(token), Ending::Switched).await;
                Held::Other
            }
            // See `verdict`.
            Err(refusal) if refusal.kind == RefusalKind::NoSession && bound.is_some_and(|bound| bound.rides_along) => {
                self.end_and_wait(user_id, &Secret::new(token), Ending::SessionEnded).await;
                Held::Ended
            }
            Err(refusal) if let Some(ending) = disabled(refusal, identity) => {
                self.end_and_wait(user_id, &Secret::new(token), ending).await;
                if ending == Ending::Switched { Held::Other } else { Held::Ended }
            }
            Err(_) => Held::Unknown,
        }
    }

    /// The browser with this token has shown these credentials, which were validated just now: from here on it is they
    /// that the host app is asked with.
    fn goes_on(&self, token: &str, shown: &Credentials, validated: &Validated) {
        self.0.tokens.follow(shown.key, token);
        if let Found::Living(chat) = self.0.tokens.find(token)
            && chat.standing().is_none_or(|standing| standing.identity == validated.identity.id)
        {
            self.0.standings.confirm(&chat, &Presented::Credentials(shown.clone()), validated);
            self.0.sync.noticed(chat.user_id(), &validated.identity);
        }
    }

    /// Counts a look of a browser at its session.
    ///
    /// # Errors
    /// It is over `limits.logins_per_session`.
    pub fn admit_browser(&self, binding: &Binding) -> Result<(), Refusal> {
        self.0.sessions.rates.session(&binding.session)
    }

    /// Ends the chat session of a browser; whether it had not ended before.
    pub async fn end_binding(&self, binding: &Binding, why: Ending) -> bool {
        self.end_and_wait(&binding.user_id, &binding.token, why).await
    }

    async fn end_and_wait(&self, user_id: &Arc<str>, token: &Secret, why: Ending) -> bool {
        let Some(ended) = self.0.end_token(user_id, token, why) else { return false };
        // A failure is logged where it happens, and tried again.
        let _ = tokio::time::timeout(END_PATIENCE, ended).await;
        true
    }

    /// The person logged out of the chat: nothing but their own wish lets them in again from this host session.
    pub fn person_logged_out(&self, token: &str) {
        self.log_out_at_host(token);
        let tokens = &self.0.tokens;
        for session in tokens.sessions_of(token) {
            self.0.signed_out.insert(session, ());
        }
        tokens.person_left(token);
    }

    /// The same, where the workspace may not have ended the token.
    pub fn person_called_logout(&self, token: &str) {
        let found = self.find(token);
        self.person_logged_out(token);
        if let Found::Living(chat) = found {
            // A failure is logged where it happens, and tried again.
            drop(self.0.tokens.end(chat.user_id(), chat.token().clone()));
        }
    }

    /// Whether the person whose browser this is has logged out of the chat.
    pub fn is_signed_out(&self, binding: &Binding) -> bool {
        binding.signed_out || self.0.tokens.has_left(binding.token.expose()) || self.0.signed_out.contains_key(&binding.session)
    }

    /// A chat session was used in a call of the REST API: the host session behind it is looked at again when that is due.
    pub fn used(&self, chat: &Chat) {
        if let Some(every) = self.0.policy.every.filter(|_| self.0.looks_again()) {
            chat.called(every);
        }
    }
}

/// What becomes of this identity's chat session where the host app says that the person of the host session is disabled.
fn disabled(refusal: &Refusal, identity: &str) -> Option<Ending> {
    if refusal.kind != RefusalKind::UserNotAllowed {
        return None;
    }
    let same = refusal.whom.as_ref().is_some_and(|whom| whom.identity == identity);
    Some(if same { Ending::SessionEnded } else { Ending::Switched })
}
