//! The workspace in verbs of our domain. Nothing of its REST API leaks out: callers get users, tokens and
//! [`Refusal`]s whose words already name what is wrong, for the version that runs.
//!
//! What each endpoint does in which version was read in Rocket.Chat's source; where versions differ the
//! code asks [`Client::version`], and lives with not knowing it.

mod breaker;
mod create;
mod diagnose;
pub(crate) mod error;
#[cfg(test)]
pub(crate) mod fake;
pub(crate) mod gate;
mod listing;
mod memo;
mod people;
mod rooms;
mod person;
mod survey;
#[cfg(test)]
mod tests;
mod token;
pub(crate) mod user;
mod usernames;
pub(crate) mod version;
pub(crate) mod wire;
mod words;

use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwapOption;
use serde_json::{Value, json};
use tokio::time::Instant;

pub use create::{CreateError, NewUser};
pub use diagnose::Minting;
pub use gate::Limiter;
pub use listing::Listed;
pub use people::{ChangeError, Looked, Profile, ProfileField};
pub use person::{LoginTrouble, SecondFactor, password_factor};
pub use rooms::{Place, PlaceKind};
pub use survey::{Role, TokenKind, Trouble};
pub use token::MintError;
pub use user::User;
pub use usernames::{DEFAULT_RULE, UsernameRule, is_reserved};
pub use version::Version;

use crate::config::Config;
use crate::error::Refusal;
use crate::metrics::Metrics;
use crate::outbound::api::Api;
use crate::secret::{Secret, SecretSource};

use error::ApiError;
use memo::Memo;
use wire::{Ask, Bounds, Endpoint, Transport, Wire};

/// How long the version and the username rule are believed.
const LONG: Duration = Duration::from_mins(10);
/// How soon something that could not be fetched is tried again.
const SHORT: Duration = Duration::from_secs(5);
/// Answers younger than this are not doubted.
const YOUNG: Duration = Duration::from_secs(10);
/// An answer not older than this is the answer to the call just made.
const JUST_NOW: Duration = Duration::from_secs(1);
/// How old an answer may be to count as a ping: keeps pings under ten a minute, the limiter's default.
const PING_EVERY: Duration = Duration::from_secs(10);
/// How long a question beside the main one may wait for the limiter.
const PATIENCE: Duration = Duration::from_secs(2);

/// The workspace. Cheap to clone; all clones share gates, breaker and memory.
#[derive(Clone, Debug)]
pub struct Client {
    shared: Arc<Shared>,
    deadline: Option<Instant>,
    /// What a call that wants a second factor is made with.
    second_factor: Option<Arc<SecondFactor>>,
}

#[derive(Debug)]
struct Shared {
    wire: Wire,
    service_id: String,
    service_token: SecretSource,
    /// The value that was used last.
    used_token: ArcSwapOption<Secret>,
    create_token_secret: Option<SecretSource>,
    patience: Duration,
    version: Memo<Option<Version>>,
    rule: Memo<Option<Arc<UsernameRule>>>,
    diagnosis: Memo<Refusal>,
    own: Memo<Result<(), ApiError>>,
}

impl Client {
    /// The workspace of `config`, called by `api`.
    pub fn new(config: &Config, api: Api, metrics: Arc<Metrics>) -> Self {
        Self::over(config, Transport::Api(api), metrics)
    }

    fn over(config: &Config, transport: Transport, metrics: Arc<Metrics>) -> Self {
        let rocketchat = &config.rocketchat;
        let scheme = if config.server.public_url.scheme() == "https" { "https" } else { "http" };
        let bounds = Bounds { timeout: rocketchat.timeout, max_body: rocketchat.max_body };
        let shared = Shared {
            wire: Wire::new(transport, rocketchat.url.clone(), bounds, scheme, metrics),
            service_id: rocketchat.user_id.clone(),
            service_token: rocketchat.auth_token.clone(),
            used_token: ArcSwapOption::empty(),
            create_token_secret: rocketchat.create_token_secret.clone(),
            patience: config.login.timeout,
            version: Memo::new(),
            rule: Memo::new(),
            diagnosis: Memo::new(),
            own: Memo::new(),
        };
        Self { shared: Arc::new(shared), deadline: None, second_factor: None }
    }

    /// The same, waiting for the limiter no longer than this. Without it each call may wait for
    /// `login.timeout`.
    #[must_use]
    pub fn until(&self, deadline: Instant) -> Self {
        Self { deadline: Some(deadline), ..self.clone() }
    }

    /// The service account's user id.
    pub fn service_id(&self) -> &str {
        &self.shared.service_id
    }

    /// The workspace's version; `None` while it cannot be told.
    pub async fn version(&self) -> Option<Version> {
        let shared = &self.shared;
        shared
            .version
            .get_or(|| async {
                match shared.wire.send(&Ask::new(Endpoint::Info), Instant::now() + PATIENCE).await {
                    Ok(answer) => (Version::of_info(&answer), LONG),
                    Err(_) => (shared.version.last().flatten(), SHORT),
                }
            })
            .await
    }

    /// Whether the workspace answers, for readiness. An answer to any call within the last ten seconds
    /// counts, so that this never uses up the limiter's calls; not when something makes us `doubt` it.
    ///
    /// # Errors
    /// Why it does not, in words.
    pub async fn ping(&self, doubt: bool) -> Result<(), Refusal> {
        let wire = &self.shared.wire;
        // Where the limiter speaks, the workspace lives.
        if (!doubt && wire.answered_within(PING_EVERY)) || wire.is_shut(Endpoint::Info) {
            return Ok(());
        }
        match wire.send(&Ask::new(Endpoint::Info).forced(), Instant::now() + PATIENCE).await {
            Ok(_) | Err(ApiError::RateLimited { .. } | ApiError::Rejected(_)) => Ok(()),
            // Whatever answers can be forwarded to; that it is not Rocket.Chat is for the account's check to say.
            Err(_) if wire.answered_within(JUST_NOW) => Ok(()),
            Err(error) => Err(self.explain(Endpoint::Info, error).await),
        }
    }

    /// The account with this username, or with this id: the workspace's query looks at both. Compare the
    /// answer's username with the one asked for.
    pub async fn find_by_username(&self, username: &str) -> Result<Option<User>, Refusal> {
        self.find(&[("username", username)]).await
    }

    /// The account with this id.
    pub async fn find_by_id(&self, id: &str) -> Result<Option<User>, Refusal> {
        Ok(self.find(&[("userId", id)]).await?.filter(|user| user.id == id))
    }

    /// The account that carries this e-mail address. What cannot be verified is not found: an old
    /// workspace may ignore the question and answer with everybody.
    pub async fn find_by_email(&self, email: &str) -> Result<Option<User>, Refusal> {
        let version = self.version().await;
        if version.is_none_or(|version| version >= Version::INFO_BY_EMAIL) {
            match self.info(&[("email", email)]).await {
                Ok(user) => return Ok(user.filter(|user| user.has_email(email))),
                Err(ApiError::Rejected(no)) if no.is_schema() => {
                    self.shared.version.doubt(YOUNG);
                }
                Err(error) => return Err(self.explain(Endpoint::UsersInfo, error).await),
            }
        }
        let filter = json!({ "emails.address": email }).to_string();
        let by_email = [("email", email), ("count", "2")];
        let by_query = [("query", filter.as_str()), ("count", "2")];
        let query = if version.is_none_or(|version| version >= Version::LIST_BY_EMAIL) { &by_email } else { &by_query };
        let listed = match self.send(self.as_service(Endpoint::UsersList).query(query)).await {
            Ok(answer) => answer.get("users").and_then(Value::as_array).cloned().unwrap_or_default(),
            Err(ApiError::Rejected(no)) if no.is_schema() || no.is_unknown_user() => Vec::new(),
            Err(error) => return Err(self.explain(Endpoint::UsersList, error).await),
        };
        let Some(found) = listed.iter().filter_map(User::read).find(|user| user.has_email(email)) else { return Ok(None) };
        // A list shows less of a user than a look-up.
        Ok(self.find_by_id(&found.id).await?.filter(|user| user.has_email(email)))
    }

    /// Which usernames the workspace accepts.
    ///
    /// # Errors
    /// It could not be asked, and never could before. A workspace that does not tell has the default rule.
    pub async fn username_rule(&self) -> Result<Arc<UsernameRule>, Refusal> {
        const ID: &str = "UTF8_User_Names_Validation";
        let shared = &self.shared;
        let mut failure = None;
        let rule = shared
            .rule
            .get_or(|| async {
                let ask = Ask::new(Endpoint::Settings).query(&[("_id", ID)]);
                match shared.wire.send(&ask, self.deadline()).await {
                    Ok(answer) => {
                        let settings = answer.get("settings").and_then(Value::as_array);
                        let setting = settings.into_iter().flatten().find(|setting| setting["_id"] == ID);
                        let pattern = setting.and_then(|setting| setting["value"].as_str()).unwrap_or_default();
                        (Some(Arc::new(UsernameRule::new(pattern))), LONG)
                    }
                    Err(ApiError::Rejected(_)) => (Some(Arc::default()), LONG),
                    Err(error) => {
                        failure = Some(error);
                        (shared.rule.last().flatten(), SHORT)
                    }
                }
            })
            .await;
        match (rule, failure) {
            (Some(rule), _) => Ok(rule),
            (None, Some(error)) => Err(self.explain(Endpoint::Settings, error).await),
            (None, None) => Err(words::unavailable("the workspace's rule for usernames could not be read", None)),
        }
    }

    /// Writes an identity's id into a custom field of an account.
    pub async fn set_external_id(&self, user_id: &str, field: &str, id: &str) -> Result<(), Refusal> {
        let body = json!({ "userId": user_id, "data": { "customFields": { field: id } } });
        match self.send(self.as_service(Endpoint::UsersUpdate).body(body)).await {
            Ok(_) => Ok(()),
            Err(error) => Err(self.explain(Endpoint::UsersUpdate, error).await),
        }
    }

    /// Whether the service account can work, for a background health task; cheap when asked often.
    ///
    /// # Errors
    /// What is wrong, in words for the operator.
    pub async fn check_service_account(&self) -> Result<(), String> {
        match self.own().await {
            Err(error @ ApiError::Rejected(_)) => return Err(self.explain(Endpoint::OwnMe, error).await.detail),
            Err(error @ ApiError::Unsendable(_)) => return Err(error.to_string()),
            Err(error) if self.shared.wire.answered_within(JUST_NOW) => return Err(error.to_string()),
            // Whether the workspace is there at all is for `ping` to say.
            Ok(()) | Err(_) => {}
        }
        match self.version().await {
            Some(version) if version >= Version::SECRET_IN_BODY && self.shared.create_token_secret.is_none() => {
                Err(words::secret_unset_here(version).detail)
            }
            _ => Ok(()),
        }
    }

    /// Whether the workspace knows the service account by its id and token; remembered for a while.
    async fn own(&self) -> Result<(), ApiError> {
        let shared = &self.shared;
        shared
            .own
            .get_or(|| async {
                match shared.wire.send(&self.as_service(Endpoint::OwnMe), Instant::now() + PATIENCE).await {
                    Ok(_) => (Ok(()), Duration::from_mins(1)),
                    Err(error) => (Err(error), YOUNG),
                }
            })
            .await
    }

    async fn find(&self, by: &[(&str, &str)]) -> Result<Option<User>, Refusal> {
        match self.info(by).await {
            Ok(user) => Ok(user),
            Err(error) => Err(self.explain(Endpoint::UsersInfo, error).await),
        }
    }

    async fn info(&self, by: &[(&str, &str)]) -> Result<Option<User>, ApiError> {
        match self.send(self.as_service(Endpoint::UsersInfo).query(by)).await {
            Ok(answer) => match answer.get("user") {
                Some(user) if !user.is_null() => User::read(user).map(Some).ok_or_else(|| ApiError::Unavailable {
                    why: "users.info answered with a user that has no id".to_owned(),
                    acted: false,
                    retry_after: None,
                }),
                _ => Ok(None),
            },
            Err(ApiError::Rejected(no)) if no.is_unknown_user() => Ok(None),
            Err(error) => Err(error),
        }
    }

    fn as_service(&self, endpoint: Endpoint) -> Ask<'_> {
        let shared = &self.shared;
        let token = shared.service_token.get();
        let used = shared.used_token.load();
        if used.as_ref().is_none_or(|used| **used != token) {
            shared.used_token.store(Some(Arc::new(token.clone())));
            // The limiter counts calls with a token that the workspace does not know, and that says nothing
            // about this one.
            if used.is_some() {
                shared.wire.forget_limits();
                shared.own.doubt(Duration::ZERO);
            }
        }
        Ask::new(endpoint).by(&shared.service_id, token)
    }

    async fn send(&self, ask: Ask<'_>) -> Result<Value, ApiError> {
        self.shared.wire.send(&ask, self.deadline()).await
    }

    fn deadline(&self) -> Instant {
        self.deadline.unwrap_or_else(|| Instant::now() + self.shared.patience)
    }
}
