//! One order (RFC 8555 §7.4): from the domains to a chain and its key.

use std::collections::HashMap;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use instant_acme::{Account, AuthorizationStatus, ChallengeType, Identifier, NewOrder, Order, OrderStatus, RetryPolicy};
use rcgen::{CertificateParams, CustomExtension, DistinguishedName, KeyPair};
use rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
use rustls::sign::CertifiedKey;

use super::super::challenges::HttpChallenges;
use super::super::pair::{Pair, Source};
use super::failure::Failure;
use crate::certs::Certificates;
use crate::config::{Acme, AcmeChallenge};
use crate::outbound::tls::provider;

/// How long the authority may take to validate, and then to issue.
const PATIENCE: Duration = Duration::from_mins(3);

/// What an authority has issued.
#[derive(Debug)]
pub(super) struct Issued {
    pub(super) pair: Pair,
    /// Key and chain, for the cache.
    pub(super) pem: String,
}

/// Where challenges are answered. What is open is closed with this value, whatever became of the order.
#[derive(Debug)]
struct Answers<'a> {
    certificates: &'a Certificates,
    http: &'a HttpChallenges,
    tokens: Vec<String>,
    shown: HashMap<String, Arc<CertifiedKey>>,
}

impl Drop for Answers<'_> {
    fn drop(&mut self) {
        for token in &self.tokens {
            self.http.close(token);
        }
        if !self.shown.is_empty() {
            self.certificates.answer_challenges(HashMap::new());
        }
    }
}

/// Orders a certificate for the configured domains and has it issued.
pub(super) async fn place(acme: &Acme, account: &Account, certificates: &Certificates, http: &HttpChallenges) -> Result<Issued, Failure> {
    let identifiers: Vec<_> = acme.domains.iter().cloned().map(Identifier::Dns).collect();
    let mut order = account.new_order(&NewOrder::new(&identifiers)).await?;
    let mut answers = Answers { certificates, http, tokens: Vec::new(), shown: HashMap::new() };
    open(&mut order, acme.challenge, &mut answers).await?;
    let policy = RetryPolicy::new().timeout(PATIENCE).backoff(1.5);
    match order.poll_ready(&policy).await {
        Ok(OrderStatus::Ready) => {}
        // The order says only that it failed; the challenges say why.
        Ok(_) => {
            return Err(refused(&mut order).await.unwrap_or_else(|| Failure::new("the authority refuses the order, and does not say why")));
        }
        Err(error) => return Err(refused(&mut order).await.unwrap_or_else(|| error.into())),
    }
    drop(answers);
    let made = || {
        let mut params = CertificateParams::new(acme.domains.clone())?;
        params.distinguished_name = DistinguishedName::new();
        let key = KeyPair::generate()?;
        let request = params.serialize_request(&key)?;
        Ok((key, request))
    };
    let (key, request) = made().map_err(|error: rcgen::Error| Failure::new(format!("no certificate request can be made: {error}")))?;
    order.finalize_csr(request.der()).await?;
    let chain = order.poll_certificate(&policy).await?;
    let pem = format!("{}{chain}", key.serialize_pem());
    let pair = read(acme, &pem, Path::new("what the authority issued")).map_err(Failure::new)?;
    Ok(Issued { pair, pem })
}

/// Takes key and chain from one text, if they are good for the configured domains.
pub(super) fn read(acme: &Acme, pem: &str, place: &Path) -> Result<Pair, String> {
    let name = acme.domains.first().map(String::as_str).unwrap_or_default();
    let pair = Pair::parse(name, Source::Acme, (pem.as_bytes(), place), (pem.as_bytes(), place)).map_err(|flaw| flaw.why)?;
    if let Some(domain) = acme.domains.iter().find(|domain| !pair.covers(domain)) {
        return Err(format!("{} is not good for {domain}, only for {}", place.display(), pair.names.join(", ")));
    }
    match pair.untimely(SystemTime::now()) {
        Some(why) => Err(format!("{}: {why}", place.display())),
        None => Ok(pair),
    }
}

/// Answers a challenge for each domain that the authority has not validated lately.
async fn open(order: &mut Order, challenge: AcmeChallenge, answers: &mut Answers<'_>) -> Result<(), Failure> {
    let kind = match challenge {
        AcmeChallenge::TlsAlpn01 => ChallengeType::TlsAlpn01,
        AcmeChallenge::Http01 => ChallengeType::Http01,
    };
    let mut authorizations = order.authorizations();
    while let Some(authorization) = authorizations.next().await {
        let mut authorization = authorization?;
        let domain = authorization.identifier().to_string();
        match authorization.status {
            AuthorizationStatus::Valid => continue,
            AuthorizationStatus::Pending => {}
            other => return Err(Failure::new(format!("the authorization for {domain} is {other:?}"))),
        }
        let Some(mut challenge) = authorization.challenge(kind.clone()) else {
            let why = format!("the authority offers no such challenge for {domain}; choose the other server.acme.challenge");
            return Err(Failure::new(why));
        };
        let authorized = challenge.key_authorization();
        if kind == ChallengeType::Http01 {
            answers.http.open(&challenge.token, authorized.as_str());
            answers.tokens.push(challenge.token.clone());
        } else {
            let shown = validation(&domain, authorized.digest().as_ref())
                .map_err(|why| Failure::new(format!("no certificate for the challenge can be made: {why}")))?;
            answers.shown.insert(domain.to_ascii_lowercase(), Arc::new(shown));
            answers.certificates.answer_challenges(answers.shown.clone());
        }
        challenge.set_ready().await?;
    }
    Ok(())
}

/// The self-signed certificate that answers tls-alpn-01 (RFC 8737 §3).
fn validation(domain: &str, digest: &[u8]) -> Result<CertifiedKey, String> {
    let made = || {
        let mut params = CertificateParams::new([domain.to_owned()])?;
        params.distinguished_name = DistinguishedName::new();
        params.custom_extensions.push(CustomExtension::new_acme_identifier(digest));
        let key = KeyPair::generate()?;
        Ok((params.self_signed(&key)?, key))
    };
    let (certificate, key) = made().map_err(|error: rcgen::Error| error.to_string())?;
    let key = PrivateKeyDer::from(PrivatePkcs8KeyDer::from(key.serialize_der()));
    let key = provider().key_provider.load_private_key(key).map_err(|error| error.to_string())?;
    Ok(CertifiedKey::new(vec![certificate.der().clone()], key))
}

/// What the authority found wrong with our answers, if it says so.
async fn refused(order: &mut Order) -> Option<Failure> {
    let mut found = None;
    let mut authorizations = order.authorizations();
    while let Some(authorization) = authorizations.next().await {
        let Ok(mut authorization) = authorization else { continue };
        if authorization.refresh().await.is_err() {
            continue;
        }
        let domain = authorization.identifier().to_string();
        for problem in authorization.challenges.iter().filter_map(|challenge| challenge.error.as_ref()) {
            let failure = Failure::of(problem, Some(&domain));
            found = Some(match found {
                None => failure,
                Some(known) => failure.after(&known),
            });
        }
    }
    found
}
