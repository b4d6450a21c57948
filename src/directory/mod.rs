//! From an identity to its Rocket.Chat account: looked up, compared, created when it is missing, and
//! remembered. Many requests at once for one identity make one look-up and one create; failures are not
//! remembered.
//!
//! A look-up that is dropped half-way is begun again by the next one who waits for it. Callers that must
//! not repeat a create run [`Directory::account`] on a task of its own.

mod create;
mod judge;
mod names;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use arc_swap::ArcSwapOption;
use moka::future::Cache;
use tokio::time::Instant;

use crate::config::{CacheSize, MatchBy, Users};
use crate::error::{Refusal, RefusalKind};
use crate::identity::Identity;
use crate::metrics::Metrics;
use crate::rocketchat::{Client, User};
use crate::trace;

pub(crate) use create::display_name;
pub(crate) use names::{account_name, marked_name};

use judge::{By, Mark, Verdict, judge};

/// How long a full workspace is taken at its word before another create is tried.
const FULL_FOR: Duration = Duration::from_mins(1);

/// A Rocket.Chat account that may be signed in to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Account {
    /// Its user id.
    pub id: Arc<str>,
    /// Its username.
    pub username: Arc<str>,
    /// Its roles' ids.
    pub roles: Vec<String>,
    /// Always true: inactive accounts are refused.
    pub active: bool,
}

/// Finds and makes accounts.
#[derive(Debug)]
pub struct Directory {
    client: Client,
    users: Users,
    cache: Cache<Key, Arc<Found>>,
    full: ArcSwapOption<(Instant, Refusal)>,
    metrics: Arc<Metrics>,
}

/// What an account depends on: a changed username or address must not meet an old entry.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Key {
    id: String,
    username: String,
    email: Option<String>,
}

/// How many entries of a cache something counts as: one for each KiB begun, so that the long texts of others take no
/// more memory than many short ones.
pub(crate) fn weight(bytes: usize) -> u32 {
    u32::try_from(1 + bytes / 1024).unwrap_or(u32::MAX)
}

impl Account {
    fn size(&self) -> usize {
        self.id.len() + self.username.len() + self.roles.iter().map(|role| size_of::<String>() + role.len()).sum::<usize>()
    }
}

impl Key {
    fn size(&self) -> usize {
        self.id.len() + self.username.len() + self.email.as_ref().map_or(0, String::len)
    }

    fn of(identity: &Identity) -> Self {
        Self { id: identity.id.clone(), username: identity.username.clone(), email: identity.email.clone() }
    }
}

#[derive(Debug)]
struct Found {
    account: Arc<Account>,
    /// Created, and nobody has been told yet.
    news: AtomicBool,
}

impl Directory {
    /// Accounts at `client`, by the rules of `users`, remembered within `size`.
    pub fn new(client: Client, users: Users, size: CacheSize, metrics: Arc<Metrics>) -> Self {
        let cache = Cache::builder()
            .max_capacity(size.capacity)
            .weigher(|key: &Key, found: &Arc<Found>| weight(key.size() + found.account.size()))
            .time_to_live(size.ttl)
            .build();
        Self { client, users, cache, full: ArcSwapOption::empty(), metrics }
    }

    /// The same memory for the same rules, with another client.
    #[must_use]
    pub fn renewed(&self, client: Client, users: Users) -> Self {
        Self { client, users, cache: self.cache.clone(), full: ArcSwapOption::empty(), metrics: Arc::clone(&self.metrics) }
    }

    /// The account, if it is remembered.
    pub async fn ready(&self, identity: &Identity) -> Option<Arc<Account>> {
        self.cache.get(&Key::of(identity)).await.map(|found| Arc::clone(&found.account))
    }

    /// The account, and whether it was created for this call. Waits for the limiter until `deadline`.
    ///
    /// # Errors
    /// Why the identity has no account that it may use.
    pub async fn account(&self, identity: &Identity, deadline: Instant) -> Result<(Arc<Account>, bool), Refusal> {
        let key = Key::of(identity);
        let mut asked = false;
        let found = self
            .cache
            .try_get_with(key, async {
                asked = true;
                trace::step("account look-up", self.resolve(&self.client.until(deadline), identity)).await
            })
            .await;
        self.metrics.cache("users", !asked);
        if asked {
            // The count lags behind by design.
            self.cache.run_pending_tasks().await;
        }
        self.metrics.cache_entries("users", self.cache.entry_count());
        let found = found.map_err(Arc::unwrap_or_clone)?;
        Ok((Arc::clone(&found.account), found.news.swap(false, Ordering::Relaxed)))
    }

    /// Looks the account up again at the next call.
    pub async fn forget(&self, identity: &Identity) {
        self.cache.invalidate(&Key::of(identity)).await;
    }

    async fn resolve(&self, client: &Client, identity: &Identity) -> Result<Arc<Found>, Refusal> {
        let rule = match client.username_rule().await {
            Ok(rule) => rule,
            // A plain name is the same under any likely rule; for others a guess could make a second account.
            Err(refusal) => {
                let default = Arc::default();
                match names::account_name(identity, &default) {
                    Some(name) if name == identity.username => default,
                    _ => return Err(refusal),
                }
            }
        };
        let name = names::account_name(identity, &rule).ok_or_else(no_name)?;
        let mut looked = false;
        let mut letters_differ = false;
        for by in &self.users.match_by {
            let (user, by) = match by {
                MatchBy::Username => {
                    looked = true;
                    (client.find_by_username(&name).await?, By::Username(&name))
                }
                MatchBy::Email => match identity.email.as_deref().filter(|_| identity.email_trusted) {
                    Some(email) => {
                        looked = true;
                        (client.find_by_email(email).await?, By::Email)
                    }
                    None => continue,
                },
            };
            let Some(user) = user else { continue };
            if let Some(account) = self.take(client, &user, identity, by).await? {
                return Ok(found(account, false));
            }
            letters_differ |= matches!(by, By::Username(_)) && user.username.is_some_and(|own| own.eq_ignore_ascii_case(&name));
        }
        if !looked {
            let detail = "users.match_by has only \"email\", and the host app does not vouch for an address of this identity";
            return Err(judge::not_allowed(detail.to_owned()));
        }
        let (account, created) = self.create(client, identity, &rule, name, letters_differ).await?;
        Ok(found(account, created))
    }

    /// Takes a user that was found, if it is the identity's.
    async fn take(&self, client: &Client, user: &User, identity: &Identity, by: By<'_>) -> Result<Option<Account>, Refusal> {
        let mark = match judge(&self.users, client.service_id(), user, identity, by) {
            Verdict::Match(mark) => mark,
            Verdict::Other => return Ok(None),
            Verdict::Refuse(refusal) => return Err(refusal),
        };
        if let Some(field) = self.users.external_id.as_deref().filter(|_| mark != Mark::Stands) {
            match client.set_external_id(&user.id, field, &identity.id).await {
                Ok(()) => tracing::info!(user = %user.id, field, "the identity's id was written into the account"),
                Err(refusal) if mark == Mark::Needed => return Err(refusal),
                Err(refusal) => {
                    tracing::warn!(user = %user.id, field, error = %refusal, "the identity's id could not be written into the account");
                }
            }
        }
        Ok(Some(Account {
            id: user.id.as_str().into(),
            username: user.username.as_deref().unwrap_or_default().into(),
            roles: user.roles.clone().unwrap_or_default(),
            active: true,
        }))
    }
}

fn found(account: Account, created: bool) -> Arc<Found> {
    Arc::new(Found { account: Arc::new(account), news: AtomicBool::new(created) })
}

fn no_name() -> Refusal {
    let words = "No username can be made that Rocket.Chat's setting UTF8_User_Names_Validation allows.";
    Refusal::new(RefusalKind::Misconfigured, words, words)
}
