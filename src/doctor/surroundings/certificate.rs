//! The certificate that browsers get, and the one that the configuration names: for which names it is, whether
//! the chain is whole, and how long it is good.

use std::fs::File;
use std::io::BufReader;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::server::ParsedCertificate;
use rustls::{CertificateError, Error, RootCertStore};
use url::Url;

use super::certificate_facts::Facts;
use super::look::Seen;
use super::{bad, good, shown, skipped, transport, warning};
use crate::config::{Config, Upstream};
use crate::doctor::Finding;

const DAY: u64 = 86_400;
/// Who renews by hand wants three weeks of notice.
const SOON: Duration = Duration::from_secs(21 * DAY);

/// Where a chain was found, and how its findings are called.
struct Place<'a> {
    /// In words.
    words: String,
    /// The file to write, as the fixes name it.
    file: &'a str,
    name: &'static str,
    chain: &'static str,
    expiry: &'static str,
    /// Whether Gantry renews it by itself.
    renewed: bool,
}

/// What is shown at the public address, and what the configured file holds.
pub(super) fn checks(config: &Config, seen: &Seen) -> Vec<Finding> {
    let public = &config.server.public_url;
    let configured = config.server.tls.as_ref().and_then(|tls| tls.pair.as_ref());
    let file = configured.map(|pair| pair.cert.display().to_string());
    let roots = roots(&config.upstream);
    let now = SystemTime::now();
    let mut findings = Vec::new();
    match &seen.certificates {
        None => {}
        Some(Err(why)) => {
            let place = public.origin().ascii_serialization();
            findings.push(warning(
                "certificate.public",
                format!("no TLS handshake with {place} from here: {why}"),
                transport::unreachable(why, "server.public_url", &place),
            ));
        }
        Some(Ok(chain)) => {
            let place = Place {
                words: format!("{} shows a certificate", public.origin().ascii_serialization()),
                file: file.as_deref().unwrap_or("fullchain.pem"),
                name: "certificate.public.name",
                chain: "certificate.public.chain",
                expiry: "certificate.public.expiry",
                renewed: config.server.acme.is_some(),
            };
            findings.extend(judge(&place, public, chain, &roots, now));
        }
    }
    if let Some(file) = &file {
        let place = Place {
            words: format!("{file} holds a certificate"),
            file,
            name: "certificate.file.name",
            chain: "certificate.file.chain",
            expiry: "certificate.file.expiry",
            renewed: false,
        };
        match read(file) {
            Ok(chain) => {
                let other = seen.certificates.as_ref().and_then(|shown| shown.as_ref().ok()).and_then(|shown| shown.first());
                if let Some(finding) = other.and_then(|other| differs(&chain, other, public, file)) {
                    findings.push(finding);
                }
                findings.extend(judge(&place, public, &chain, &roots, now));
            }
            Err(why) => findings.push(bad(
                "certificate.file",
                format!("{file} {why}"),
                "set [server.tls] cert_file to a PEM file with the chain, leaf first; gantry check names every problem",
            )),
        }
    }
    findings
}

/// Another certificate is shown than the one configured.
fn differs(chain: &[CertificateDer<'static>], shown: &CertificateDer<'static>, public: &Url, file: &str) -> Option<Finding> {
    let leaf = chain.first().filter(|leaf| *leaf != shown)?;
    // Another name's certificate may stand in the same file's place by SNI.
    let (ours, theirs) = (Facts::of(leaf)?, Facts::of(shown)?);
    Some(warning(
        "certificate.public",
        format!(
            "{} shows another certificate (until {}) than {file} holds (until {})",
            public.origin().ascii_serialization(),
            day(theirs.not_after),
            day(ours.not_after)
        ),
        "if something in front of Gantry ends TLS, renew the certificate there; if it is Gantry itself, the file is no good: look for \
         \"certificate\" in its log and run gantry check",
    ))
}

fn read(file: &str) -> Result<Vec<CertificateDer<'static>>, String> {
    let open = File::open(file).map_err(|error| format!("cannot be read: {error}"))?;
    let chain: Result<Vec<_>, _> = CertificateDer::pem_reader_iter(BufReader::new(open)).collect();
    let chain = chain.map_err(|error| format!("is not PEM: {error}"))?;
    if chain.is_empty() { Err("holds no certificate".to_owned()) } else { Ok(chain) }
}

/// The roots that Gantry trusts: those of `[upstream]`. Browsers have about the platform's.
fn roots(upstream: &Upstream) -> RootCertStore {
    let mut roots = RootCertStore::empty();
    if upstream.platform_roots {
        roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
    }
    if let Some(path) = &upstream.ca_file {
        roots.add_parsable_certificates(read(&path.display().to_string()).unwrap_or_default());
    }
    roots
}

fn judge(place: &Place<'_>, public: &Url, chain: &[CertificateDer<'static>], roots: &RootCertStore, now: SystemTime) -> Vec<Finding> {
    let Some((leaf, facts)) = chain.first().and_then(|leaf| Facts::of(leaf).map(|facts| (leaf, facts))) else {
        return vec![bad(
            place.chain,
            format!("{} that cannot be read", place.words),
            format!("put a PEM chain, leaf first, into {}", place.file),
        )];
    };
    vec![
        name(place, public, leaf, &facts),
        whole(place, chain, leaf, &facts, roots),
        expiry(place, &facts, now.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs()),
    ]
}

fn name(place: &Place<'_>, public: &Url, leaf: &CertificateDer<'_>, facts: &Facts) -> Finding {
    let host = public.host_str().unwrap_or_default();
    let bare = host.trim_start_matches('[').trim_end_matches(']').to_owned();
    let fits = ServerName::try_from(bare.clone())
        .is_ok_and(|name| ParsedCertificate::try_from(leaf).is_ok_and(|leaf| rustls::client::verify_server_name(&leaf, &name).is_ok()));
    if fits {
        return good(place.name, format!("{} for {host}", place.words));
    }
    let list = if facts.names.is_empty() { "no name at all (browsers do not look at the CN)".to_owned() } else { facts.names.join(", ") };
    bad(
        place.name,
        format!("{} for {list}, not for {host} (server.public_url)", place.words),
        format!(
            "get one for it: certbot certonly -d {bare}, or [server.acme] domains = [\"{bare}\"]; or correct [server] public_url if browsers use \
             another name"
        ),
    )
}

fn whole(place: &Place<'_>, chain: &[CertificateDer<'static>], leaf: &CertificateDer<'_>, facts: &Facts, roots: &RootCertStore) -> Finding {
    if roots.is_empty() {
        return skipped(place.chain, "this machine has no root certificates, so no chain can be judged: install ca-certificates");
    }
    // At a time when the leaf is good, so that an expired one with a whole chain is told as just that.
    let time = UnixTime::since_unix_epoch(Duration::from_secs(facts.not_before.midpoint(facts.not_after)));
    let provider = rustls::crypto::aws_lc_rs::default_provider();
    let verified = ParsedCertificate::try_from(leaf).and_then(|leaf| {
        let algorithms = provider.signature_verification_algorithms.all;
        rustls::client::verify_server_cert_signed_by_trust_anchor(&leaf, roots, &chain[1..], time, algorithms)
    });
    match verified {
        Ok(()) => return good(place.chain, format!("{} with a whole chain ({})", place.words, count(chain.len()))),
        Err(Error::InvalidCertificate(CertificateError::UnknownIssuer)) => {}
        Err(_) if facts.self_signed() => {}
        Err(error) => {
            return bad(
                place.chain,
                format!("{} that does not verify: {error}", place.words),
                format!("get a new one into {}", place.file),
            );
        }
    }
    if facts.self_signed() {
        return bad(
            place.chain,
            format!("{} that is self-signed: browsers and apps refuse it", place.words),
            "get one from an authority: [server.acme] domains, or certbot; if yours is to be trusted, install it on every device, and \
             set [upstream] ca_file to it for this check",
        );
    }
    let last = chain.last().and_then(Facts::of);
    let ends_at_root = last.as_ref().is_some_and(Facts::self_signed);
    if ends_at_root {
        let authority = last.map(|last| shown(&last.subject)).unwrap_or_default();
        return warning(
            place.chain,
            format!("{} from a private authority ({authority}), which is not trusted here", place.words),
            "set [upstream] ca_file to its root for this check; every browser and phone has to have it installed",
        );
    }
    let missing = last.as_ref().map_or(facts, |last| last);
    let how = missing.issuer_at.as_ref().map_or_else(
        || format!("cat leaf.pem intermediate.pem > {}", place.file),
        |url| format!("curl -s {url} | openssl x509 -inform der -out intermediate.pem; cat leaf.pem intermediate.pem > {}", place.file),
    );
    bad(
        place.chain,
        format!(
            "{} with an incomplete chain: {} sent, and the intermediate certificate of {} is missing; phones and other servers refuse that, \
             some browsers hide it",
            place.words,
            count(chain.len()),
            shown(&missing.issuer)
        ),
        format!("send the full chain, leaf first: {how} (certbot: use fullchain.pem, not cert.pem)"),
    )
}

fn count(certificates: usize) -> String {
    if certificates == 1 { "1 certificate".to_owned() } else { format!("{certificates} certificates") }
}

fn expiry(place: &Place<'_>, facts: &Facts, now: u64) -> Finding {
    let until = day(facts.not_after);
    let renew = format!(
        "renew it into {}: certbot renew, or let Gantry do it: [server.acme] domains; Gantry takes a new file without a restart",
        place.file
    );
    if now >= facts.not_after {
        return bad(place.expiry, format!("{} that expired {} ago, on {until}", place.words, days(now - facts.not_after)), renew);
    }
    if now < facts.not_before {
        return bad(
            place.expiry,
            format!("{} that is not good before {}", place.words, day(facts.not_before)),
            "look at this machine's clock (timedatectl), or wait",
        );
    }
    let left = facts.not_after - now;
    // Authorities make ever shorter ones, and what renews itself does so when a third of the life is left.
    let third = (facts.not_after - facts.not_before) / 3;
    let soon = if place.renewed { SOON.as_secs().min(third) } else { SOON.as_secs() };
    if left < soon {
        return warning(place.expiry, format!("{} that expires in {}, on {until}", place.words, days(left)), renew);
    }
    good(place.expiry, format!("{} until {until} ({})", place.words, days(left)))
}

fn days(seconds: u64) -> String {
    match seconds / DAY {
        0 => "less than a day".to_owned(),
        1 => "1 day".to_owned(),
        days => format!("{days} days"),
    }
}

fn day(seconds: u64) -> String {
    let text = humantime::format_rfc3339_seconds(UNIX_EPOCH + Duration::from_secs(seconds)).to_string();
    text.split('T').next().unwrap_or_default().to_owned()
}

#[cfg(test)]
mod tests {
    use rcgen::{BasicConstraints, CertificateParams, CustomExtension, DnType, IsCa, Issuer, KeyPair, date_time_ymd};

    use super::*;
    use crate::doctor::Verdict;

    const PLACE: Place<'static> =
        Place { words: String::new(), file: "/etc/tls.crt", name: "name", chain: "chain", expiry: "expiry", renewed: false };

    /// An authority, one between, and what they sign.
    struct Authority {
        root: CertificateDer<'static>,
        between: CertificateDer<'static>,
        issuer: Issuer<'static, KeyPair>,
    }

    fn params(name: &str, names: &[&str]) -> CertificateParams {
        let mut params = CertificateParams::new(names.iter().map(|&name| name.to_owned()).collect::<Vec<_>>()).unwrap();
        params.distinguished_name.push(DnType::CommonName, name);
        params.not_before = date_time_ymd(2029, 1, 1);
        params.not_after = date_time_ymd(2031, 1, 1);
        params
    }

    impl Authority {
        fn new() -> Self {
            let authority = |name: &str| {
                let mut params = params(name, &[]);
                params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
                params
            };
            let (root_key, key) = (KeyPair::generate().unwrap(), KeyPair::generate().unwrap());
            let root = authority("Root").self_signed(&root_key).unwrap().der().clone();
            let between = authority("Between").signed_by(&key, &Issuer::new(authority("Root"), root_key)).unwrap().der().clone();
            Self { root, between, issuer: Issuer::new(authority("Between"), key) }
        }

        fn sign(&self, params: &CertificateParams) -> CertificateDer<'static> {
            params.signed_by(&KeyPair::generate().unwrap(), &self.issuer).unwrap().der().clone()
        }
    }

    fn trusting(roots: &[&CertificateDer<'static>]) -> RootCertStore {
        let mut store = RootCertStore::empty();
        store.add_parsable_certificates(roots.iter().map(|&root| root.clone()));
        store
    }

    /// The outcome of one check on the first day of a year.
    fn check(which: &str, chain: &[&CertificateDer<'static>], roots: &RootCertStore, now: &str) -> Finding {
        let chain: Vec<_> = chain.iter().map(|&one| one.clone()).collect();
        let public = Url::parse("https://chat.example.com").unwrap();
        let now = humantime::parse_rfc3339(&format!("{now}T00:00:00Z")).unwrap();
        let findings = judge(&PLACE, &public, &chain, roots, now);
        findings.into_iter().find(|finding| finding.check == which).unwrap()
    }

    fn expect(finding: &Finding, verdict: Verdict, seen: &str, fix: &str) {
        assert!(finding.verdict == verdict && finding.seen.contains(seen) && finding.fix.contains(fix), "{finding:?}");
    }

    #[test]
    fn names_are_compared_with_the_public_one() {
        let authority = Authority::new();
        let roots = trusting(&[&authority.root]);
        for (names, verdict, seen) in [
            (&["chat.example.com"] as &[&str], Verdict::Good, "for chat.example.com"),
            (&["app.example.com", "*.example.com"], Verdict::Good, ""),
            (&["app.example.com", "127.0.0.1"], Verdict::Bad, "for app.example.com, 127.0.0.1, not for chat.example.com"),
            (&["*.chat.example.com"], Verdict::Bad, "not for chat.example.com"),
            (&[], Verdict::Bad, "no name at all"),
        ] {
            let leaf = authority.sign(&params("chat.example.com", names));
            let finding = check("name", &[&leaf, &authority.between], &roots, "2030-01-01");
            expect(&finding, verdict, seen, if verdict == Verdict::Good { "" } else { "certbot certonly -d chat.example.com" });
        }
    }

    #[test]
    fn a_chain_is_whole_or_it_is_told_what_is_missing() {
        let authority = Authority::new();
        let known = trusting(&[&authority.root]);
        let leaf = authority.sign(&params("leaf", &["chat.example.com"]));
        let (between, root) = (&authority.between, &authority.root);
        let own_key = KeyPair::generate().unwrap();
        let own = params("own", &["chat.example.com"]).self_signed(&own_key).unwrap().der().clone();
        let strange = trusting(&[&own]);
        expect(&check("chain", &[&leaf, between], &known, "2030-01-01"), Verdict::Good, "whole chain (2 certificates)", "");
        let finding = check("chain", &[&leaf], &known, "2030-01-01");
        expect(
            &finding,
            Verdict::Bad,
            "1 certificate sent, and the intermediate certificate of CN=Between is missing",
            "cat leaf.pem intermediate.pem > /etc/tls.crt",
        );
        // Expiry is another check's business.
        expect(&check("chain", &[&leaf, between], &known, "2040-01-01"), Verdict::Good, "whole chain", "");
        expect(&check("chain", &[&own], &known, "2030-01-01"), Verdict::Bad, "self-signed", "get one from an authority");
        expect(
            &check("chain", &[&leaf, between, root], &strange, "2030-01-01"),
            Verdict::Warning,
            "private authority (CN=Root)",
            "ca_file",
        );
        expect(&check("chain", &[&leaf], &RootCertStore::empty(), "2030-01-01"), Verdict::Skipped, "ca-certificates", "");
        assert!(
            judge(&PLACE, &Url::parse("https://x").unwrap(), &[CertificateDer::from(vec![1, 2])], &known, SystemTime::now())[0]
                .seen
                .contains("cannot be read")
        );
    }

    #[test]
    fn a_certificate_that_names_its_issuer_s_place_has_it_fetched_from_there() {
        let authority = Authority::new();
        let url = b"http://ca.example/between.der";
        // AuthorityInfoAccess (RFC 5280, 4.2.2.1) with one id-ad-caIssuers.
        let mut access = vec![0x06, 8, 0x2b, 6, 1, 5, 5, 7, 0x30, 2, 0x86, u8::try_from(url.len()).unwrap()];
        access.extend_from_slice(url);
        let size = u8::try_from(access.len()).unwrap();
        let content = [&[0x30, size + 2, 0x30, size], access.as_slice()].concat();
        let mut params = params("leaf", &["chat.example.com"]);
        params.custom_extensions.push(CustomExtension::from_oid_content(&[1, 3, 6, 1, 5, 5, 7, 1, 1], content));
        let leaf = authority.sign(&params);
        let finding = check("chain", &[&leaf], &trusting(&[&authority.root]), "2030-01-01");
        expect(&finding, Verdict::Bad, "incomplete", "curl -s http://ca.example/between.der | openssl x509 -inform der");
    }

    #[test]
    fn the_time_that_is_left_is_told() {
        let authority = Authority::new();
        let roots = trusting(&[&authority.root]);
        let leaf = authority.sign(&params("leaf", &["chat.example.com"]));
        for (now, verdict, seen) in [
            ("2030-01-01", Verdict::Good, "until 2031-01-01 (365 days)"),
            ("2030-12-10", Verdict::Good, "(22 days)"),
            ("2030-12-12", Verdict::Warning, "expires in 20 days"),
            ("2030-12-31", Verdict::Warning, "expires in 1 day"),
            ("2031-01-01", Verdict::Bad, "expired less than a day ago"),
            ("2031-02-01", Verdict::Bad, "expired 31 days ago"),
            ("2028-12-31", Verdict::Bad, "not good before 2029-01-01"),
        ] {
            let finding = check("expiry", &[&leaf, &authority.between], &roots, now);
            let fix = if seen.contains("expire") { "certbot renew" } else { "" };
            expect(&finding, verdict, seen, fix);
        }
        let mut brief = params("brief", &["chat.example.com"]);
        brief.not_after = date_time_ymd(2029, 1, 7);
        let facts = Facts::of(&authority.sign(&brief)).unwrap();
        for (day, renewed, verdict) in [(3, false, Verdict::Warning), (3, true, Verdict::Good), (6, true, Verdict::Warning)] {
            let now = facts.not_before + (day - 1) * DAY;
            assert_eq!(expiry(&Place { renewed, words: String::new(), ..PLACE }, &facts, now).verdict, verdict, "{day} {renewed}");
        }
    }
}
