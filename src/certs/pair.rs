//! One certificate chain with its private key.

use std::fmt;
use std::net::IpAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rustls::SignatureAlgorithm;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::sign::{CertifiedKey, SigningKey};
use x509_parser::certificate::X509Certificate;
use x509_parser::extensions::GeneralName;

use super::flaw::{Flaw, date};
use crate::config::PairFiles;
use crate::outbound::tls::provider;

/// Where a pair comes from. The order is the one in which pairs for the same name are preferred.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Source {
    /// `server.tls.cert_file` and `key_file`.
    Files,
    /// `server.tls.cert_dir`.
    Directory,
    /// A certificate authority, by ACME.
    Acme,
    /// Made here, until there is something better.
    Placeholder,
}

impl Source {
    /// The key that leads to the certificate.
    pub(super) fn cert_key(self) -> &'static str {
        match self {
            Self::Files => "server.tls.cert_file",
            Self::Directory => "server.tls.cert_dir",
            Self::Acme | Self::Placeholder => "server.acme.cache_dir",
        }
    }

    /// The key that leads to the private key.
    fn key_key(self) -> &'static str {
        match self {
            Self::Files => "server.tls.key_file",
            other => other.cert_key(),
        }
    }
}

/// A chain and its key, found to belong together.
#[derive(Clone)]
pub struct Pair {
    /// What it is called in metrics and logs: a file's or a domain's name.
    pub name: String,
    /// Where it comes from.
    pub source: Source,
    /// The host names that it is good for, in lower case; some may begin with `*.`.
    pub names: Vec<String>,
    /// The addresses that it is good for.
    pub addresses: Vec<IpAddr>,
    /// From when on it is good.
    pub not_before: SystemTime,
    /// Until when it is good.
    pub not_after: SystemTime,
    /// What is suspicious about it, in words that name the file.
    pub warnings: Vec<String>,
    pub(super) certified: Arc<CertifiedKey>,
}

impl fmt::Debug for Pair {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Pair").field("name", &self.name).field("names", &self.names).finish_non_exhaustive()
    }
}

impl Pair {
    /// Reads a pair from its two files.
    ///
    /// # Errors
    /// A file cannot be read, holds something else, or the two do not belong together. The words name the
    /// file and say what to do.
    pub fn read(name: &str, source: Source, files: &PairFiles) -> Result<Self, Flaw> {
        let cert = std::fs::read(&files.cert)
            .map_err(|error| Flaw::new(source.cert_key(), format!("{} cannot be read: {error}", files.cert.display())))?;
        let key = std::fs::read(&files.key)
            .map_err(|error| Flaw::new(source.key_key(), format!("{} cannot be read: {error}", files.key.display())))?;
        let key = zeroize::Zeroizing::new(key);
        let mut pair = Self::parse(name, source, (&cert, &files.cert), (&key, &files.key))?;
        if let Some(issuer) = pair.missing_issuer().filter(|issuer| !beside(&files.cert, issuer)) {
            pair.warnings.push(format!(
                "{} holds no certificate of its issuer \"{}\": clients that do not know that one will not trust it; \
                 append the intermediate certificates (the file is often called fullchain)",
                files.cert.display(),
                issuer.1
            ));
        }
        if let Some(mode) = open_to_all(&files.key) {
            pair.warnings.push(format!(
                "{} can be read by every user (mode {mode:04o}); chmod 0400, or defaultMode: 0400 in Kubernetes",
                files.key.display()
            ));
        }
        Ok(pair)
    }

    /// Takes a pair from PEM texts; the paths are for error texts.
    ///
    /// # Errors
    /// See [`Pair::read`].
    pub(super) fn parse(name: &str, source: Source, cert: (&[u8], &Path), key: (&[u8], &Path)) -> Result<Self, Flaw> {
        let (cert_path, key_path) = (cert.1.display(), key.1.display());
        let bad_cert = |why: String| Flaw::new(source.cert_key(), format!("{cert_path} {why}"));
        let bad_key = |why: &str| Flaw::new(source.key_key(), format!("{key_path} {why}"));
        let chain: Vec<CertificateDer<'static>> = CertificateDer::pem_slice_iter(cert.0)
            .collect::<Result<_, _>>()
            .map_err(|error| bad_cert(format!("is not PEM: {error}; is it half written?")))?;
        if chain.is_empty() {
            return Err(bad_cert("holds no certificate in PEM form".into()));
        }
        let private = PrivateKeyDer::from_pem_slice(key.0)
            .map_err(|_| bad_key("holds no private key in PEM form (an encrypted one has to be decrypted first)"))?;
        let signing = provider()
            .key_provider
            .load_private_key(private)
            .map_err(|_| bad_key("holds a private key of a kind that is not supported; use ECDSA P-256 or RSA with 2048 bits or more"))?;
        let mut warnings = Vec::new();
        let chain = in_order(&chain, signing.as_ref(), |words| warnings.push(format!("{cert_path} {words}"))).map_err(|bad| match bad {
            BadChain::Unreadable(number) => bad_cert(format!("holds a certificate (number {number}) that cannot be read")),
            BadChain::OtherKey => Flaw::new(
                source.key_key(),
                format!("the key in {key_path} does not belong to the certificate in {cert_path}; put both files there as they were issued together"),
            ),
        })?;
        let leaf = parsed(&chain[0]).ok_or_else(|| bad_cert("holds a certificate that cannot be read".into()))?;
        let (names, addresses) = names(&leaf);
        if names.is_empty() && addresses.is_empty() {
            warnings.push(format!(
                "{cert_path} names no host (subjectAltName): browsers trust it for no address; have it issued again with its names"
            ));
        }
        let at = |time: x509_parser::time::ASN1Time| UNIX_EPOCH + Duration::from_secs(u64::try_from(time.timestamp()).unwrap_or(0));
        let (not_before, not_after) = (at(leaf.validity().not_before), at(leaf.validity().not_after));
        Ok(Self {
            name: name.to_owned(),
            source,
            names,
            addresses,
            not_before,
            not_after,
            warnings,
            certified: Arc::new(CertifiedKey::new(chain, signing)),
        })
    }

    /// Whether it is good at this time.
    pub fn is_valid(&self, now: SystemTime) -> bool {
        self.not_before <= now && now <= self.not_after
    }

    /// What its times say, where they say that it is no good.
    pub fn untimely(&self, now: SystemTime) -> Option<String> {
        if now > self.not_after {
            Some(format!("the certificate {} expired on {}; browsers refuse it until it is replaced", self.name, date(self.not_after)))
        } else if now < self.not_before {
            Some(format!("the certificate {} is not valid before {}; is this machine's clock right?", self.name, date(self.not_before)))
        } else {
            None
        }
    }

    /// Whether the host name or address is one that it is good for (RFC 6125 §6.4.3: a wildcard is one label).
    pub fn covers(&self, host: &str) -> bool {
        let bare = host.trim_start_matches('[').trim_end_matches(']');
        if let Ok(address) = bare.parse::<IpAddr>() {
            return self.addresses.contains(&address);
        }
        let host = host.to_ascii_lowercase();
        let parent = host.split_once('.').map(|(_, parent)| parent);
        self.names.iter().any(|name| *name == host || name.strip_prefix("*.").is_some_and(|covered| Some(covered) == parent))
    }

    /// Whether chain and key are the same.
    pub(super) fn same(&self, other: &Self) -> bool {
        // The key belongs to the leaf, so the chain says it all.
        self.certified.cert == other.certified.cert
    }

    pub(super) fn algorithm(&self) -> SignatureAlgorithm {
        self.certified.key.algorithm()
    }

    /// The leaf's issuer, as encoded and in words, where the chain ends with the leaf and that is not its own issuer.
    fn missing_issuer(&self) -> Option<(Vec<u8>, String)> {
        let leaf = parsed(self.certified.cert.first()?)?;
        let issuer = leaf.issuer().as_raw();
        let known = self.certified.cert.iter().any(|cert| parsed(cert).is_some_and(|cert| cert.subject().as_raw() == issuer));
        (!known).then(|| (issuer.to_vec(), leaf.issuer().to_string()))
    }
}

enum BadChain {
    Unreadable(usize),
    OtherKey,
}

fn parsed<'a>(der: &'a CertificateDer<'_>) -> Option<X509Certificate<'a>> {
    x509_parser::parse_x509_certificate(der.as_ref()).ok().map(|(_, certificate)| certificate)
}

/// The chain with the key's own certificate first and each signed by the next (RFC 5246 §7.4.2, RFC 8446 §4.4.2).
fn in_order(
    chain: &[CertificateDer<'static>],
    key: &dyn SigningKey,
    mut warn: impl FnMut(&str),
) -> Result<Vec<CertificateDer<'static>>, BadChain> {
    let mut facts = Vec::with_capacity(chain.len());
    for (index, der) in chain.iter().enumerate() {
        let certificate = parsed(der).ok_or(BadChain::Unreadable(index + 1))?;
        let ours = key.public_key().is_some_and(|public| public.as_ref() == certificate.public_key().raw);
        facts.push((certificate.subject().as_raw().to_vec(), certificate.issuer().as_raw().to_vec(), ours));
    }
    let leaf = facts.iter().position(|(_, _, ours)| *ours).ok_or(BadChain::OtherKey)?;
    let mut left: Vec<usize> = (0..chain.len()).filter(|&index| index != leaf).collect();
    let mut order = vec![leaf];
    let mut last = leaf;
    while facts[last].0 != facts[last].1 {
        let Some(at) = left.iter().position(|&index| facts[index].0 == facts[last].1) else { break };
        last = left.remove(at);
        order.push(last);
    }
    order.extend(left);
    if !order.is_sorted() {
        warn(
            "is not in order, and Gantry shows it in the right one; put the server's own certificate first, then the one that signed it, and so on",
        );
    }
    Ok(order.into_iter().map(|index| chain[index].clone()).collect())
}

fn names(leaf: &X509Certificate<'_>) -> (Vec<String>, Vec<IpAddr>) {
    let (mut names, mut addresses) = (Vec::new(), Vec::new());
    if let Ok(Some(extension)) = leaf.subject_alternative_name() {
        for name in &extension.value.general_names {
            match name {
                GeneralName::DNSName(name) => names.push(name.to_ascii_lowercase()),
                GeneralName::IPAddress(bytes) => {
                    let v4 = <[u8; 4]>::try_from(*bytes).map(IpAddr::from);
                    addresses.extend(v4.or_else(|_| <[u8; 16]>::try_from(*bytes).map(IpAddr::from)));
                }
                _ => {}
            }
        }
    }
    (names, addresses)
}

/// The mode of a file that everybody can read.
#[cfg(unix)]
fn open_to_all(path: &Path) -> Option<u32> {
    use std::os::unix::fs::PermissionsExt;
    let mode = std::fs::metadata(path).ok()?.permissions().mode() & 0o777;
    (mode & 0o004 != 0).then_some(mode)
}

/// Whether the issuer is the authority whose own certificate cert-manager puts beside (`ca.crt`): then nothing is
/// missing between the two.
fn beside(cert: &Path, issuer: &(Vec<u8>, String)) -> bool {
    let Ok(pem) = std::fs::read(cert.with_file_name("ca.crt")) else { return false };
    CertificateDer::pem_slice_iter(&pem).flatten().any(|der| {
        parsed(&der).is_some_and(|authority| authority.subject().as_raw() == issuer.0 && authority.issuer().as_raw() == issuer.0)
    })
}

#[cfg(test)]
mod tests {
    use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair};

    use super::*;
    use crate::certs::testing::{days, pair, pem};

    fn authority(name: &str) -> CertificateParams {
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params
    }

    /// A root, an intermediate and a leaf for `a.example`, as PEM, and the leaf's key.
    fn chain() -> ([String; 3], String) {
        let (root_key, middle_key, leaf_key) = (KeyPair::generate().unwrap(), KeyPair::generate().unwrap(), KeyPair::generate().unwrap());
        let root = Issuer::new(authority("root"), &root_key);
        let root_pem = authority("root").self_signed(&root_key).unwrap().pem();
        let middle_pem = authority("middle").signed_by(&middle_key, &root).unwrap().pem();
        let middle = Issuer::new(authority("middle"), &middle_key);
        let leaf = CertificateParams::new(["a.example".to_owned()]).unwrap().signed_by(&leaf_key, &middle).unwrap();
        ([leaf.pem(), middle_pem, root_pem], leaf_key.serialize_pem())
    }

    fn parse(certificate: &str, key: &str) -> Result<Pair, Flaw> {
        let paths = [Path::new("/etc/tls.crt"), Path::new("/etc/tls.key")];
        Pair::parse("tls.crt", Source::Files, (certificate.as_bytes(), paths[0]), (key.as_bytes(), paths[1]))
    }

    #[test]
    fn a_pair_that_cannot_be_used_is_told_with_its_key_and_file() {
        let (certificate, key) = pem(&["a.example"], |_| {});
        let (_, other) = pem(&["a.example"], |_| {});
        let cut = &certificate[..certificate.len() / 2];
        for (certificate, key, at, words) in [
            (certificate.as_str(), other.as_str(), "server.tls.key_file", &["/etc/tls.key", "/etc/tls.crt", "does not belong"][..]),
            ("", &key, "server.tls.cert_file", &["/etc/tls.crt", "no certificate"]),
            (cut, &key, "server.tls.cert_file", &["/etc/tls.crt"]),
            (&certificate, "", "server.tls.key_file", &["/etc/tls.key", "no private key"]),
            (&certificate, &certificate, "server.tls.key_file", &["no private key"]),
            (
                "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n",
                &key,
                "server.tls.cert_file",
                &["number 1", "cannot be read"],
            ),
        ] {
            let flaw = parse(certificate, key).unwrap_err();
            assert!(flaw.key == at && words.iter().all(|word| flaw.why.contains(word)), "{flaw}");
        }
    }

    #[test]
    fn a_chain_is_shown_leaf_first_whatever_its_file_says() {
        let ([leaf, middle, root], key) = chain();
        let ordered = parse(&format!("{leaf}{middle}{root}"), &key).unwrap();
        assert_eq!(ordered.warnings, [""; 0]);
        for text in [format!("{root}{middle}{leaf}"), format!("{middle}{root}{leaf}"), format!("{leaf}{root}{middle}")] {
            let pair = parse(&text, &key).unwrap();
            assert!(pair.same(&ordered), "the order is mended");
            assert!(pair.warnings.len() == 1 && pair.warnings[0].contains("not in order"), "{:?}", pair.warnings);
        }
    }

    #[test]
    fn a_missing_intermediate_is_a_warning_unless_the_issuer_is_the_authority_itself() {
        let ([leaf, middle, root], key) = chain();
        let dir = tempfile::tempdir().unwrap();
        let files = PairFiles { cert: dir.path().join("tls.crt"), key: dir.path().join("tls.key") };
        std::fs::write(&files.key, key).unwrap();
        let mode = |mode: u32| std::fs::set_permissions(&files.key, std::os::unix::fs::PermissionsExt::from_mode(mode)).unwrap();
        mode(0o440);
        let warnings = |certificate: &str| {
            std::fs::write(&files.cert, certificate).unwrap();
            Pair::read("tls.crt", Source::Files, &files).unwrap().warnings
        };
        let told = warnings(&leaf);
        assert!(told.len() == 1 && told[0].contains("\"CN=middle\"") && told[0].contains("intermediate"), "{told:?}");
        assert_eq!(warnings(&format!("{leaf}{root}")).len(), 1, "another certificate is not the issuer's");
        assert_eq!(warnings(&format!("{leaf}{middle}")), [""; 0], "the root need not be there");
        // cert-manager puts the certificate of the authority beside, and nothing is missing where that one signed.
        std::fs::write(dir.path().join("ca.crt"), &root).unwrap();
        assert_eq!(warnings(&leaf).len(), 1, "that root did not sign it");
        let root_key = KeyPair::generate().unwrap();
        let signer = Issuer::new(authority("another root"), &root_key);
        let own_key = KeyPair::generate().unwrap();
        let direct = CertificateParams::new(["a.example".to_owned()]).unwrap().signed_by(&own_key, &signer).unwrap();
        std::fs::write(&files.key, own_key.serialize_pem()).unwrap();
        assert_eq!(warnings(&direct.pem()).len(), 1);
        std::fs::write(dir.path().join("ca.crt"), authority("another root").self_signed(&root_key).unwrap().pem()).unwrap();
        assert_eq!(warnings(&direct.pem()), [""; 0]);
        let (own, own_key) = pem(&["a.example"], |_| {});
        std::fs::write(&files.key, own_key).unwrap();
        assert_eq!(warnings(&own), [""; 0], "a self-signed one has no issuer");
        mode(0o644);
        assert!(warnings(&own)[0].contains("mode 0644"), "everybody can read the key");
    }

    #[test]
    fn names_and_times_are_read() {
        let named = pair(&["Chat.Example", "*.apps.example", "192.0.2.7", "2001:db8::1"], days(1, 30));
        assert_eq!(named.names, ["chat.example", "*.apps.example"]);
        for (host, covered) in [
            ("chat.example", true),
            ("CHAT.example", true),
            ("www.chat.example", false),
            ("a.apps.example", true),
            ("apps.example", false),
            ("a.b.apps.example", false),
            ("192.0.2.7", true),
            ("192.0.2.8", false),
            ("[2001:db8::1]", true),
        ] {
            assert_eq!(named.covers(host), covered, "{host}");
        }
        let now = SystemTime::now();
        assert_eq!(named.untimely(now), None);
        let expired = pair(&["a.example"], days(30, -1)).untimely(now).unwrap();
        assert!(expired.contains("expired on"), "{expired}");
        let early = named.untimely(now - Duration::from_hours(72)).unwrap();
        assert!(early.contains("clock"), "{early}");
        let none = pair(&[], |_| {});
        assert!(none.warnings[0].contains("names no host"), "{:?}", none.warnings);
    }
}
