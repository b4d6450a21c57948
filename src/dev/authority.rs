//! A certificate authority of this machine's own, for `https://*.localhost`, and the certificate that it
//! signs for one dev proxy.
//!
//! The authority is constrained to `localhost` and loopback addresses (RFC 5280 §4.2.1.10): a browser that
//! trusts it is not put at risk for any other name, even if its key leaks.

use std::fs::{self, OpenOptions};
use std::io::{self, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::time::{Duration, SystemTime};

use rcgen::{
    BasicConstraints, CertificateParams, CidrSubnet, DnType, ExtendedKeyUsagePurpose, GeneralSubtree, IsCa, Issuer, KeyPair,
    KeyUsagePurpose, NameConstraints, SanType,
};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;

const DAY: Duration = Duration::from_hours(24);
/// How long the authority is good for.
const AUTHORITY_LIFE: Duration = Duration::from_hours(24 * 700);
/// It is made anew this long before its end: trusting it again is work, and should come at a good time.
const AUTHORITY_MARGIN: Duration = Duration::from_hours(24 * 30);
/// How long a proxy's certificate is good for.
const LEAF_LIFE: Duration = Duration::from_hours(24 * 30);
/// Clocks of virtual machines lag behind.
const SKEW: Duration = Duration::from_hours(1);

/// The authority on disk.
#[derive(Debug)]
pub struct Authority {
    dir: PathBuf,
    certificate: String,
    issuer: Issuer<'static, KeyPair>,
    /// Whether it was made just now, so that no browser knows it.
    pub is_new: bool,
}

/// The certificate of one dev proxy, as files.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Leaf {
    /// The chain.
    pub cert: PathBuf,
    /// Its key.
    pub key: PathBuf,
}

impl Authority {
    /// The authority in this directory; it is made where there is none, or one that ends soon. `owner` stands in
    /// its name, so that people can tell theirs apart.
    ///
    /// # Errors
    /// The directory cannot be written, or what is there cannot be used; the words say what to do.
    pub fn open(dir: &Path, owner: &str) -> Result<Self, String> {
        let (cert, key) = (dir.join("dev-ca.crt"), dir.join("dev-ca.key"));
        match (fs::read_to_string(&cert), fs::read_to_string(&key)) {
            (Ok(certificate), Ok(signing_key)) => {
                let broken =
                    |why: String| format!("{}: {why}; delete both dev-ca files there, and a new authority is made", cert.display());
                let left = left(&certificate).map_err(broken)?;
                if left > AUTHORITY_MARGIN {
                    let signing_key =
                        KeyPair::from_pem(&signing_key).map_err(|error| broken(format!("its key cannot be used: {error}")))?;
                    let issuer = Issuer::from_ca_cert_pem(&certificate, signing_key).map_err(|error| broken(error.to_string()))?;
                    return Ok(Self { dir: dir.to_owned(), certificate, issuer, is_new: false });
                }
            }
            (Err(error), _) | (_, Err(error)) if error.kind() != io::ErrorKind::NotFound => {
                return Err(format!("{}: cannot be read: {error}", dir.display()));
            }
            _ => {}
        }
        Self::make(dir, owner).map_err(|why| {
            format!(
                "{}: no certificate authority can be made there: {why}; give XDG_DATA_HOME another directory, or --http for plain http",
                dir.display()
            )
        })
    }

    fn make(dir: &Path, owner: &str) -> Result<Self, String> {
        let words = |error: rcgen::Error| error.to_string();
        fs::DirBuilder::new().recursive(true).mode(0o700).create(dir).map_err(|error| error.to_string())?;
        let key = KeyPair::generate().map_err(words)?;
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, format!("Gantry dev, this machine only ({owner})"));
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        params.name_constraints = Some(NameConstraints {
            permitted_subtrees: vec![
                GeneralSubtree::DnsName("localhost".to_owned()),
                GeneralSubtree::IpAddress(CidrSubnet::V4([127, 0, 0, 0], [255, 0, 0, 0])),
                GeneralSubtree::IpAddress(CidrSubnet::V6(Ipv6Addr::LOCALHOST.octets(), [255; 16])),
            ],
            excluded_subtrees: Vec::new(),
        });
        let now = SystemTime::now();
        params.not_before = (now - SKEW).into();
        params.not_after = (now + AUTHORITY_LIFE).into();
        let certificate = params.self_signed(&key).map_err(words)?.pem();
        write(&dir.join("dev-ca.key"), &key.serialize_pem(), 0o600).map_err(|error| error.to_string())?;
        write(&dir.join("dev-ca.crt"), &certificate, 0o644).map_err(|error| error.to_string())?;
        let issuer = Issuer::from_ca_cert_pem(&certificate, key).map_err(words)?;
        Ok(Self { dir: dir.to_owned(), certificate, issuer, is_new: true })
    }

    /// The authority's certificate, which a browser has to trust.
    pub fn path(&self) -> PathBuf {
        self.dir.join("dev-ca.crt")
    }

    /// Signs a certificate for `host` and the usual names of this machine, and writes it for the proxy on
    /// `port`; two proxies do not share one.
    ///
    /// # Errors
    /// A file cannot be written.
    pub fn leaf(&self, host: &str, port: u16) -> Result<Leaf, String> {
        let leaf = self.place(port);
        self.sign(host, &leaf).map_err(|why| format!("{}: {why}", leaf.cert.display()))?;
        Ok(leaf)
    }

    fn place(&self, port: u16) -> Leaf {
        Leaf { cert: self.dir.join(format!("dev-{port}.crt")), key: self.dir.join(format!("dev-{port}.key")) }
    }

    fn sign(&self, host: &str, leaf: &Leaf) -> Result<(), String> {
        let words = |error: rcgen::Error| error.to_string();
        let key = KeyPair::generate().map_err(words)?;
        let mut names = vec![host.to_owned(), "localhost".to_owned(), "chat.localhost".to_owned()];
        names.retain(|name| name.parse::<IpAddr>().is_err() && !name.starts_with('['));
        names.sort();
        names.dedup();
        let mut params = CertificateParams::new(names).map_err(words)?;
        params.subject_alt_names.push(SanType::IpAddress(Ipv4Addr::LOCALHOST.into()));
        params.subject_alt_names.push(SanType::IpAddress(Ipv6Addr::LOCALHOST.into()));
        params.distinguished_name.push(DnType::CommonName, "Gantry dev");
        params.use_authority_key_identifier_extension = true;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        let now = SystemTime::now();
        params.not_before = (now - SKEW).into();
        params.not_after = (now + LEAF_LIFE).into();
        let certificate = params.signed_by(&key, &self.issuer).map_err(words)?;
        write(&leaf.key, &key.serialize_pem(), 0o600).map_err(|error| error.to_string())?;
        write(&leaf.cert, &format!("{}{}", certificate.pem(), self.certificate), 0o644).map_err(|error| error.to_string())
    }

    /// Signs a new certificate once the one on disk has lived half its life. True when it did; the
    /// listener reads the files by itself.
    ///
    /// # Errors
    /// A file cannot be read or written.
    pub fn renew(&self, host: &str, port: u16) -> Result<bool, String> {
        let leaf = self.place(port);
        let text = fs::read_to_string(&leaf.cert).map_err(|error| format!("{}: {error}", leaf.cert.display()))?;
        if left(&text)? > LEAF_LIFE / 2 {
            return Ok(false);
        }
        self.leaf(host, port).map(|_| true)
    }
}

/// How long the first certificate in a PEM text is still good for.
fn left(pem: &str) -> Result<Duration, String> {
    let der = CertificateDer::from_pem_slice(pem.as_bytes()).map_err(|error| format!("is no certificate in PEM form: {error}"))?;
    let (_, certificate) = x509_parser::parse_x509_certificate(&der).map_err(|error| format!("is no certificate: {error}"))?;
    let end = u64::try_from(certificate.validity().not_after.timestamp()).unwrap_or_default();
    let end = SystemTime::UNIX_EPOCH + Duration::from_secs(end);
    Ok(end.duration_since(SystemTime::now()).unwrap_or_default())
}

/// Writes a file as a whole or not at all, and never readable by more than `mode` says.
fn write(path: &Path, text: &str, mode: u32) -> io::Result<()> {
    let part = path.with_extension(format!("{}.part", std::process::id()));
    let written = (|| {
        let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(mode).open(&part)?;
        file.write_all(text.as_bytes())?;
        file.sync_all()?;
        fs::rename(&part, path)
    })();
    if written.is_err() {
        // It may not be there.
        let _ = fs::remove_file(&part);
    }
    written
}

/// How this machine comes to trust the authority, as lines to print.
pub fn how_to_trust(path: &Path) -> Vec<String> {
    let path = shell_word(&path.display().to_string());
    let lines: &[&str] = if cfg!(target_os = "macos") {
        &[
            "Safari, Chrome:    security add-trusted-cert -r trustRoot -k ~/Library/Keychains/login.keychain-db PATH",
            "Firefox:           takes it from the keychain; else Settings, Certificates, View, Authorities, Import PATH",
        ]
    } else {
        &[
            "Chrome, Chromium:  certutil -d sql:$HOME/.pki/nssdb -A -t C,, -n gantry-dev -i PATH   (Debian: libnss3-tools)",
            "Firefox:           Settings, Privacy & Security, Certificates, View, Authorities, Import PATH",
            "curl and others:   sudo cp PATH /usr/local/share/ca-certificates/gantry-dev.crt && sudo update-ca-certificates",
            "                   (Fedora, Arch: sudo trust anchor PATH)",
            "Windows (WSL):     certutil.exe -user -addstore Root \"$(wslpath -w PATH)\"",
        ]
    };
    lines.iter().map(|line| line.replace("PATH", &path)).collect()
}

fn shell_word(text: &str) -> String {
    let plain = text.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '/' | '.' | '_' | '-' | '+' | ':'));
    if plain { text.to_owned() } else { format!("'{}'", text.replace('\'', "'\\''")) }
}

/// Keeps the certificate of a proxy that runs for weeks fresh, until it is dropped.
#[derive(Debug)]
pub struct Fresh {
    _alive: Sender<()>,
}

impl Fresh {
    /// Looks at the certificate of the proxy on `port` once a day.
    ///
    /// # Errors
    /// No thread can be started.
    pub fn keep(authority: Authority, host: String, port: u16) -> io::Result<Self> {
        let (alive, ended) = channel();
        let watch = move || {
            while ended.recv_timeout(DAY) == Err(RecvTimeoutError::Timeout) {
                match authority.renew(&host, port) {
                    Ok(true) => tracing::info!("the dev proxy's certificate was renewed"),
                    Ok(false) => {}
                    Err(why) => tracing::warn!(why, "the dev proxy's certificate cannot be renewed"),
                }
            }
        };
        std::thread::Builder::new().name("gantry-dev-ca".into()).spawn(watch)?;
        Ok(Self { _alive: alive })
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use x509_parser::extensions::{GeneralName, ParsedExtension};

    use super::*;

    fn mode(path: &Path) -> u32 {
        fs::metadata(path).unwrap().permissions().mode() & 0o777
    }

    #[test]
    fn an_authority_is_made_once_private_and_for_localhost_only() {
        let dir = tempfile::tempdir().unwrap();
        let data = dir.path().join("share/gantry");
        let first = Authority::open(&data, "ada").unwrap();
        assert!(first.is_new);
        assert_eq!((mode(&data), mode(&data.join("dev-ca.key"))), (0o700, 0o600));
        let pem = fs::read_to_string(first.path()).unwrap();
        let again = Authority::open(&data, "ada").unwrap();
        assert!(!again.is_new && fs::read_to_string(again.path()).unwrap() == pem);

        let der = CertificateDer::from_pem_slice(pem.as_bytes()).unwrap();
        let (_, certificate) = x509_parser::parse_x509_certificate(&der).unwrap();
        let constraints = certificate.extensions().iter().find_map(|extension| match extension.parsed_extension() {
            ParsedExtension::NameConstraints(constraints) => Some(constraints.clone()),
            _ => None,
        });
        let permitted = constraints.unwrap().permitted_subtrees.unwrap();
        assert!(permitted.iter().any(|subtree| matches!(&subtree.base, GeneralName::DNSName("localhost"))), "{permitted:?}");
        let days = left(&pem).unwrap().as_secs() / DAY.as_secs();
        assert!((365..=730).contains(&days), "{days}");
    }

    #[test]
    fn a_leaf_is_signed_for_its_host_and_renewed_when_it_ages() {
        let dir = tempfile::tempdir().unwrap();
        let authority = Authority::open(dir.path(), "ada").unwrap();
        let leaf = authority.leaf("team.localhost", 8443).unwrap();
        assert_eq!(mode(&leaf.key), 0o600);
        let text = fs::read_to_string(&leaf.cert).unwrap();
        assert_eq!(text.matches("BEGIN CERTIFICATE").count(), 2);
        let der = CertificateDer::from_pem_slice(text.as_bytes()).unwrap();
        let (_, certificate) = x509_parser::parse_x509_certificate(&der).unwrap();
        let names = format!("{:?}", certificate.subject_alternative_name().unwrap().unwrap().value);
        assert!(names.contains("team.localhost") && names.contains("\"localhost\"") && names.contains("127, 0, 0, 1"), "{names}");
        assert!(!authority.renew("team.localhost", 8443).unwrap());
        // One that has run out is replaced.
        let mut old = CertificateParams::new(vec!["localhost".to_owned()]).unwrap();
        old.not_after = (SystemTime::now() - DAY).into();
        let key = KeyPair::generate().unwrap();
        fs::write(&leaf.cert, old.signed_by(&key, &authority.issuer).unwrap().pem()).unwrap();
        assert!(authority.renew("team.localhost", 8443).unwrap());
        assert!(left(&fs::read_to_string(&leaf.cert).unwrap()).unwrap() > LEAF_LIFE / 2);
    }

    #[test]
    fn what_cannot_be_used_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("file");
        fs::write(&file, "").unwrap();
        let why = Authority::open(&file.join("gantry"), "ada").unwrap_err();
        assert!(why.contains("file/gantry") && why.contains("XDG_DATA_HOME") || why.contains("cannot be read"), "{why}");
        fs::write(dir.path().join("dev-ca.crt"), "nonsense").unwrap();
        fs::write(dir.path().join("dev-ca.key"), "nonsense").unwrap();
        let why = Authority::open(dir.path(), "ada").unwrap_err();
        assert!(why.contains("dev-ca.crt") && why.contains("delete both"), "{why}");
    }

    #[test]
    fn paths_are_quoted_for_the_shell() {
        let lines = how_to_trust(Path::new("/home/a b/it's.crt")).join("\n");
        assert!(lines.contains("'/home/a b/it'\\''s.crt'"), "{lines}");
    }
}
