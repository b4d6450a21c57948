//! Certificates from an authority by itself (RFC 8555): ordered when there is none, renewed when a third of its life
//! is left, tried again with growing pauses.

mod cache;
mod failure;
mod http;
mod order;
mod pace;

use std::fmt;
use std::io;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use aws_lc_rs::rand;
use base64::Engine as _;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use base64::{alphabet, prelude::BASE64_STANDARD};
use instant_acme::{Account, ExternalAccountKey, NewAccount};
use tokio::runtime::Handle;

pub use pace::Pace;

use self::cache::{Cache, StoredAccount, Turn};
use self::failure::Failure;
use self::http::Http;
use super::flaw::{Flaw, date};
use super::{Certificates, HttpChallenges, Pair};
use crate::config::Acme;
use crate::metrics::Metrics;
use crate::outbound::api::Api;
use crate::outbound::connect::Connector;

/// Until a connection to the authority stands.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// How often an order is begun again at once because of a bad nonce.
const NONCE_RETRIES: u32 = 3;
/// How often it is asked whose turn it is, while another replica orders.
const TURN_EVERY: Duration = Duration::from_secs(1);

/// Sees to it that there is a certificate.
pub struct Keeper {
    acme: Acme,
    certificates: Certificates,
    challenges: HttpChallenges,
    metrics: Arc<Metrics>,
    http: Http,
    cache: Cache,
    pace: Pace,
    /// The one in use.
    pair: Option<Pair>,
    /// The account, so that there is one also where nothing can be stored.
    account: Option<Account>,
}

impl fmt::Debug for Keeper {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Keeper").field("domains", &self.acme.domains).field("pair", &self.pair).finish_non_exhaustive()
    }
}

/// What is wrong with the keys of `[server.acme]`, or suspicious, for `gantry check`.
///
/// # Errors
/// The MAC key of the External Account Binding cannot be read, or the cache cannot be a directory.
pub fn check(acme: &Acme) -> Result<Option<Flaw>, Flaw> {
    external_account(acme)?;
    let dir = &acme.cache_dir;
    if dir.exists() && !dir.is_dir() {
        return Err(Flaw::new("server.acme.cache_dir", format!("{} is not a directory", dir.display())));
    }
    let plain = acme.directory_url.scheme() != "https";
    Ok(plain.then(|| Flaw::new("server.acme.directory_url", "is not https; RFC 8555 wants it, and anybody on the way could answer")))
}

impl Keeper {
    /// Takes up what is in the cache. Nothing is ordered before [`Keeper::run`].
    ///
    /// # Errors
    /// `server.acme.ca_file` or the MAC key cannot be used.
    pub fn new(
        acme: &Acme,
        certificates: Certificates,
        challenges: HttpChallenges,
        metrics: Arc<Metrics>,
        control: Handle,
    ) -> Result<Self, Flaw> {
        external_account(acme)?;
        let connector = Connector::to_authority(CONNECT_TIMEOUT, acme.ca_file.as_deref()).map_err(|bad| Flaw::new(bad.key, bad.why))?;
        let cache = Cache::new(acme);
        if let Err(flaw) = cache.prepare() {
            tracing::error!("{flaw}");
        }
        let mut this = Self {
            acme: acme.clone(),
            certificates,
            challenges,
            metrics,
            http: Http::new(Api::new(connector, control)),
            cache,
            pace: Pace::default(),
            pair: None,
            account: None,
        };
        this.take_up(std::fs::read_to_string(this.cache.certificate_file()));
        Ok(this)
    }

    /// Goes at another pace.
    #[must_use]
    pub fn at(mut self, pace: Pace) -> Self {
        self.pace = pace;
        self
    }

    /// Runs for ever.
    pub async fn run(mut self) {
        let mut failures = 0;
        loop {
            self.look_into_cache().await;
            let now = SystemTime::now();
            if let Some(left) = self.pair.as_ref().and_then(|pair| pace::renewal(pair).duration_since(now).ok()) {
                failures = 0;
                self.certificates.acme_trouble(None);
                tokio::time::sleep(left.min(self.pace.look)).await;
                continue;
            }
            let cache = self.cache.clone();
            let Ok(Some(turn)) = tokio::task::spawn_blocking(move || cache.turn()).await else {
                tokio::time::sleep(TURN_EVERY.min(self.pace.look)).await;
                continue;
            };
            // Another replica may have been at it between the two.
            if self.look_into_cache().await {
                continue;
            }
            match self.order(turn).await {
                Ok(()) => {
                    self.metrics.acme_order(true);
                    failures = 0;
                }
                Err(failure) => {
                    self.metrics.acme_order(false);
                    failures += 1;
                    let wait = self.pace.wait(failures, self.http.come_back(), SystemTime::now(), chance());
                    self.report(&failure, wait);
                    tokio::time::sleep(wait).await;
                }
            }
        }
    }

    /// Shows what is in the cache, if it is better than what is shown. True when it was.
    async fn look_into_cache(&mut self) -> bool {
        let path = self.cache.certificate_file().to_owned();
        match tokio::task::spawn_blocking(move || std::fs::read_to_string(path)).await {
            Ok(read) => self.take_up(read),
            Err(_) => false,
        }
    }

    fn take_up(&mut self, read: io::Result<String>) -> bool {
        let path = self.cache.certificate_file();
        let Ok(pem) = read.map(zeroize::Zeroizing::new) else { return false };
        match order::read(&self.acme, &pem, path) {
            Ok(pair) if self.pair.as_ref().is_none_or(|known| known.not_after < pair.not_after) => {
                tracing::info!(
                    domains = self.acme.domains.join(" "),
                    expires = date(pair.not_after),
                    "certificate taken from the ACME cache"
                );
                self.certificates.issue(pair.clone());
                self.pair = Some(pair);
                true
            }
            Ok(_) => false,
            Err(why) => {
                tracing::debug!(%why, "the certificate in the ACME cache is not used");
                false
            }
        }
    }

    async fn order(&mut self, _turn: Turn) -> Result<(), Failure> {
        tracing::info!(domains = self.acme.domains.join(" "), directory = %self.acme.directory_url, "ordering a certificate");
        let (mut nonces, mut accounts) = (0, 0);
        let issued = loop {
            match self.try_order().await {
                Err(failure) if failure.bad_nonce && nonces < NONCE_RETRIES => nonces += 1,
                // The account was forgotten, and the next one is new.
                Err(failure) if failure.unknown_account && accounts == 0 => accounts += 1,
                outcome => break outcome?,
            }
        };
        let cache = self.cache.clone();
        let pem = zeroize::Zeroizing::new(issued.pem);
        let stored = tokio::task::spawn_blocking(move || cache.store_certificate(&pem)).await;
        if let Ok(Err(flaw)) = stored {
            tracing::error!("{flaw}");
        }
        tracing::info!(domains = self.acme.domains.join(" "), expires = date(issued.pair.not_after), "certificate issued");
        self.certificates.issue(issued.pair.clone());
        self.certificates.acme_trouble(None);
        self.pair = Some(issued.pair);
        Ok(())
    }

    async fn try_order(&mut self) -> Result<order::Issued, Failure> {
        let account = self.account().await?;
        let placed = order::place(&self.acme, &account, &self.certificates, &self.challenges).await;
        if placed.as_ref().is_err_and(|failure| failure.unknown_account) {
            tracing::warn!("the authority does not know our account any more; another one is made");
            self.account = None;
            self.cache.forget_account();
        }
        placed
    }

    /// The account: the one in use, the stored one, or a new one.
    async fn account(&mut self) -> Result<Account, Failure> {
        if let Some(account) = &self.account {
            return Ok(account.clone());
        }
        let builder = Account::builder_with_http(Box::new(self.http.clone()));
        let contact = self.acme.contact.clone();
        let addresses: Vec<String> = contact.iter().map(|address| format!("mailto:{address}")).collect();
        let addresses: Vec<&str> = addresses.iter().map(String::as_str).collect();
        let account = if let Some(stored) = self.cache.account() {
            let account = builder.from_credentials(stored.credentials).await?;
            if stored.contact != contact {
                account.update_contacts(&addresses).await?;
                // The credentials cannot be copied, but read again.
                if let Some(stored) = self.cache.account() {
                    self.store(&StoredAccount { contact, credentials: stored.credentials });
                }
            }
            account
        } else {
            let key = external_account(&self.acme).map_err(|flaw| Failure::new(flaw.to_string()))?;
            let wanted = NewAccount { contact: &addresses, terms_of_service_agreed: true, only_return_existing: false };
            let (account, credentials) = builder.create(&wanted, self.acme.directory_url.to_string(), key.as_ref()).await?;
            tracing::info!(id = account.id(), "an account was made at the authority");
            self.store(&StoredAccount { contact, credentials });
            account
        };
        self.account = Some(account.clone());
        Ok(account)
    }

    fn store(&self, account: &StoredAccount) {
        if let Err(flaw) = self.cache.store_account(account) {
            tracing::error!("{flaw}");
        }
    }

    fn report(&self, failure: &Failure, wait: Duration) {
        let wait = humantime::format_duration(Duration::from_secs(wait.as_secs().max(1)));
        let domains = self.acme.domains.join(", ");
        let why = &failure.why;
        if let Some(pair) = &self.pair {
            tracing::error!(next = %wait, expires = date(pair.not_after), "the certificate for {domains} is not renewed: {why}");
        } else {
            tracing::error!(next = %wait, "there is no certificate for {domains}: {why}");
        }
        self.certificates.acme_trouble(Some(format!("no certificate for {domains} by ACME: {why}")));
    }
}

/// The External Account Binding of the configuration (RFC 8555 §7.3.4).
fn external_account(acme: &Acme) -> Result<Option<ExternalAccountKey>, Flaw> {
    let Some((id, key)) = &acme.eab else { return Ok(None) };
    // Authorities print it in either alphabet, padded or not.
    let config = GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent);
    let url_safe = GeneralPurpose::new(&alphabet::URL_SAFE, config);
    let text = key.get();
    let text = text.expose().trim();
    match url_safe.decode(text).or_else(|_| BASE64_STANDARD.decode(text)) {
        Ok(key) if !key.is_empty() => Ok(Some(ExternalAccountKey::new(id.clone(), &key))),
        _ => Err(Flaw::new("server.acme.eab_hmac_key", "is not base64url; copy it as the authority shows it")),
    }
}

fn chance() -> u8 {
    let mut byte = [127];
    // Without randomness TLS would not work either; the middle will do.
    let _ = rand::fill(&mut byte);
    byte[0]
}
