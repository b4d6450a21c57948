//! Which certificate is shown to whom.

use std::borrow::Cow;
use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;
use std::time::SystemTime;

use arc_swap::ArcSwap;
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use rustls::{SignatureAlgorithm, SignatureScheme};

use super::pair::{Pair, Source};

/// What the authority offers when it validates by tls-alpn-01 (RFC 8737 §6.2).
pub const ACME_ALPN: &[u8] = b"acme-tls/1";

/// The pairs by name.
#[derive(Debug, Default)]
pub(super) struct Table {
    exact: HashMap<String, Vec<Arc<Pair>>>,
    /// By what stands behind `*.`.
    wildcard: HashMap<String, Vec<Arc<Pair>>>,
    /// For unknown names, and for clients that name none.
    default: Option<Arc<Pair>>,
}

impl Table {
    /// `public_host` is the host of `server.public_url`.
    pub(super) fn new(mut pairs: Vec<Arc<Pair>>, public_host: &str, now: SystemTime) -> Self {
        pairs.sort_by(|a, b| order(a, now).cmp(&order(b, now)).then_with(|| a.name.cmp(&b.name)));
        let mut table = Self { default: default(&pairs, public_host), ..Self::default() };
        for pair in pairs {
            for name in &pair.names {
                let (map, name) = match name.strip_prefix("*.") {
                    Some(parent) => (&mut table.wildcard, parent),
                    None => (&mut table.exact, name.as_str()),
                };
                map.entry(name.to_owned()).or_default().push(Arc::clone(&pair));
            }
        }
        table
    }

    /// The pair for a client that asks for this name and verifies these signatures.
    pub(super) fn find(&self, name: Option<&str>, schemes: &[SignatureScheme]) -> Option<&Arc<Pair>> {
        // rustls hands it over in lower case.
        let name = name.map(|name| {
            if name.bytes().any(|byte| byte.is_ascii_uppercase()) { name.to_ascii_lowercase().into() } else { Cow::Borrowed(name) }
        });
        let name = name.as_deref().map(|name| name.strip_suffix('.').unwrap_or(name));
        let exact = name.and_then(|name| self.exact.get(name));
        let wildcard = name.and_then(|name| self.wildcard.get(name.split_once('.')?.1));
        let mut candidates = exact.into_iter().chain(wildcard).flatten();
        candidates
            .clone()
            .find(|pair| pair.certified.key.choose_scheme(schemes).is_some())
            .or_else(|| candidates.next())
            .or(self.default.as_ref())
    }

    /// The pair for unknown names.
    pub(super) fn for_unknown(&self) -> Option<&Arc<Pair>> {
        self.default.as_ref()
    }
}

/// Of pairs for one name: what is good now, then ECDSA, which costs a tenth of RSA, then by source, then the one
/// that lasts longest.
fn order(pair: &Pair, now: SystemTime) -> (bool, bool, u8, Source, std::cmp::Reverse<SystemTime>) {
    let algorithm = match pair.algorithm() {
        SignatureAlgorithm::ECDSA => 0,
        SignatureAlgorithm::ED25519 | SignatureAlgorithm::ED448 => 1,
        _ => 2,
    };
    (pair.source == Source::Placeholder, !pair.is_valid(now), algorithm, pair.source, std::cmp::Reverse(pair.not_after))
}

fn default(pairs: &[Arc<Pair>], public_host: &str) -> Option<Arc<Pair>> {
    let of = |source: Source| pairs.iter().find(|pair| pair.source == source);
    let by_name = || pairs.iter().min_by(|a, b| a.name.cmp(&b.name));
    let found = of(Source::Files)
        .or_else(|| pairs.iter().find(|pair| pair.source != Source::Placeholder && pair.covers(public_host)))
        .or_else(|| of(Source::Acme))
        .or_else(|| pairs.iter().filter(|pair| pair.source == Source::Directory).min_by(|a, b| a.name.cmp(&b.name)))
        .or_else(by_name);
    found.cloned()
}

/// Chooses for each handshake.
#[derive(Default)]
pub(super) struct Resolver {
    pub(super) table: ArcSwap<Table>,
    /// The certificates for tls-alpn-01 by domain, while challenges are open.
    pub(super) challenges: ArcSwap<HashMap<String, Arc<CertifiedKey>>>,
}

impl fmt::Debug for Resolver {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Resolver").field("table", &self.table).finish_non_exhaustive()
    }
}

impl ResolvesServerCert for Resolver {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        // RFC 8737 §3: the authority offers this protocol and no other.
        if hello.alpn().is_some_and(|mut offered| offered.next() == Some(ACME_ALPN) && offered.next().is_none()) {
            return self.challenges.load().get(&hello.server_name()?.to_ascii_lowercase()).cloned();
        }
        self.table.load().find(hello.server_name(), hello.signature_schemes()).map(|pair| Arc::clone(&pair.certified))
    }
}

#[cfg(test)]
mod tests {
    use rcgen::{KeyPair, PKCS_RSA_SHA256};

    use super::*;
    use crate::certs::testing::{self, days};

    const BOTH: &[SignatureScheme] = &[SignatureScheme::ECDSA_NISTP256_SHA256, SignatureScheme::RSA_PSS_SHA256];
    const RSA: &[SignatureScheme] = &[SignatureScheme::RSA_PSS_SHA256, SignatureScheme::RSA_PKCS1_SHA256];

    fn pair(name: &str, source: Source, names: &[&str], last: i64) -> Pair {
        Pair { name: name.into(), source, ..testing::pair(names, days(60, last)) }
    }

    fn rsa(name: &str, names: &[&str]) -> Pair {
        let key = KeyPair::generate_for(&PKCS_RSA_SHA256).unwrap();
        let params = rcgen::CertificateParams::new(names.iter().map(|&name| name.to_owned()).collect::<Vec<_>>()).unwrap();
        let (certificate, key) = (params.self_signed(&key).unwrap().pem(), key.serialize_pem());
        let path = std::path::Path::new("rsa.pem");
        Pair::parse(name, Source::Directory, (certificate.as_bytes(), path), (key.as_bytes(), path)).unwrap()
    }

    fn table(pairs: Vec<Pair>, public_host: &str) -> Table {
        Table::new(pairs.into_iter().map(Arc::new).collect(), public_host, SystemTime::now())
    }

    fn found<'a>(table: &'a Table, name: Option<&str>, schemes: &[SignatureScheme]) -> &'a str {
        table.find(name, schemes).map_or("", |pair| &pair.name)
    }

    #[test]
    fn the_name_decides_exact_before_wildcard() {
        let table = table(
            vec![
                pair("exact", Source::Directory, &["a.apps.example"], 90),
                pair("wild", Source::Directory, &["*.apps.example"], 90),
                pair("wilder", Source::Directory, &["*.b.apps.example"], 90),
                pair("default", Source::Files, &["chat.example"], 90),
            ],
            "chat.example",
        );
        for (name, expected) in [
            (Some("a.apps.example"), "exact"),
            (Some("A.Apps.Example"), "exact"),
            (Some("z.apps.example"), "wild"),
            (Some("x.b.apps.example"), "wilder"),
            (Some("apps.example"), "default"),
            (Some("x.y.z.example"), "default"),
            (Some("example"), "default"),
            (None, "default"),
        ] {
            assert_eq!(found(&table, name, BOTH), expected, "{name:?}");
        }
    }

    #[test]
    fn of_two_for_one_name_the_client_gets_the_cheaper_one_that_it_can_verify() {
        let both = table(vec![rsa("rsa", &["chat.example"]), pair("ecdsa", Source::Directory, &["chat.example"], 90)], "chat.example");
        assert_eq!(found(&both, Some("chat.example"), BOTH), "ecdsa");
        assert_eq!(found(&both, Some("chat.example"), RSA), "rsa");
        // One that the client cannot verify is better than one for another name.
        let one = table(vec![rsa("rsa", &["other.example"]), pair("ecdsa", Source::Directory, &["chat.example"], 90)], "chat.example");
        assert_eq!(found(&one, Some("chat.example"), RSA), "ecdsa");
    }

    #[test]
    fn what_is_good_now_goes_before_what_is_not_and_files_before_the_rest() {
        let names = &["chat.example"];
        let with = |last| table(vec![pair("files", Source::Files, names, last), pair("acme", Source::Acme, names, 30)], "chat.example");
        assert_eq!(found(&with(90), Some("chat.example"), BOTH), "files");
        assert_eq!(found(&with(-1), Some("chat.example"), BOTH), "acme", "the expired one is not shown to whom a good one fits");
        assert_eq!(found(&with(-1), None, BOTH), "files", "but stays the default");
        let longer = table(vec![pair("a", Source::Directory, names, 30), pair("b", Source::Directory, names, 60)], "x");
        assert_eq!(found(&longer, Some("chat.example"), BOTH), "b", "the one that lasts longer");
    }

    #[test]
    fn the_default_is_the_configured_pair_else_the_public_hosts_else_the_authoritys_else_the_first() {
        let files = || pair("files", Source::Files, &["f.example"], 90);
        let directory = |name: &str, host: &str| pair(name, Source::Directory, &[host], 90);
        let acme = || pair("acme", Source::Acme, &["acme.example"], 90);
        let placeholder = || pair("placeholder", Source::Placeholder, &["chat.example"], 90);
        for (pairs, expected) in [
            (vec![directory("a", "chat.example"), acme(), files()], "files"),
            (vec![directory("b", "b.example"), directory("c", "*.example"), acme()], "c"),
            (vec![directory("b", "b.test"), acme(), placeholder()], "acme"),
            (vec![directory("z", "z.test"), directory("b", "b.test"), placeholder()], "b"),
            (vec![placeholder()], "placeholder"),
            (vec![], ""),
        ] {
            assert_eq!(found(&table(pairs, "chat.example"), None, BOTH), expected);
        }
    }
}
