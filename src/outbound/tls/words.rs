//! Why TLS to somebody failed, and which key mends it.

use std::io;
use std::time::{Duration, UNIX_EPOCH};

use rustls::pki_types::UnixTime;
use rustls::{AlertDescription, CertificateError, Error, OtherError};

use super::Keys;

/// The words for what went wrong while a connection was made; `host` is whose certificate was checked.
pub(in crate::outbound) fn words(error: &io::Error, host: &str, keys: Keys) -> String {
    let Some(tls) = error.get_ref().and_then(|inner| inner.downcast_ref::<Error>()) else { return error.to_string() };
    match tls {
        Error::InvalidCertificate(why) => certificate(why, host, keys),
        Error::AlertReceived(alert) => alert_words(*alert, keys),
        Error::InvalidMessage(_) => format!("what answers there does not speak TLS ({tls}); should the URL begin with http://?"),
        Error::PeerIncompatible(_) => format!("no TLS version or cipher in common ({tls}); TLS 1.2 with ECDHE, or 1.3, is needed"),
        other => format!("the TLS handshake failed: {other}"),
    }
}

fn certificate(error: &CertificateError, host: &str, keys: Keys) -> String {
    match error {
        CertificateError::UnknownIssuer => format!(
            "its certificate is not signed by an authority that is trusted here; put that authority's certificate into {}",
            keys.ca_file
        ),
        CertificateError::NotValidForName => format!("its certificate is not valid for {host}; {}", rename(keys, "a name that it has")),
        CertificateError::NotValidForNameContext { presented, .. } => {
            let names = presented.iter().map(|name| plain(name)).collect::<Vec<_>>();
            if names.is_empty() {
                return format!(
                    "its certificate is not valid for {host}, since it names no host at all; have it issued again with its names"
                );
            }
            format!("its certificate is not valid for {host}, only for {}; {}", names.join(", "), rename(keys, "one of these"))
        }
        CertificateError::Expired => "its certificate has expired; it has to be renewed there".into(),
        CertificateError::ExpiredContext { not_after, .. } => {
            format!("its certificate expired on {}; it has to be renewed there", date(*not_after))
        }
        CertificateError::NotValidYet => "its certificate is not valid yet; is this machine's clock right?".into(),
        CertificateError::NotValidYetContext { not_before, .. } => {
            format!("its certificate is not valid before {}; is this machine's clock right?", date(*not_before))
        }
        CertificateError::Other(OtherError(inner)) if inner.to_string().contains("CaUsedAsEndEntity") => {
            "its certificate is that of an authority and not of a server; have it issued as a server's certificate".into()
        }
        other => format!("its certificate cannot be trusted: {other}"),
    }
}

/// What to do about a name that does not fit.
fn rename(keys: Keys, what: &str) -> String {
    match keys.name {
        Some(key) => format!("set {key} to {what}, or use it in the URL"),
        None => format!("use {what} in the URL"),
    }
}

fn alert_words(alert: AlertDescription, keys: Keys) -> String {
    let client = keys.client.unwrap_or("a client certificate, which is not sent to this server");
    match alert {
        AlertDescription::CertificateRequired => format!("it asks for a client certificate; set {client}"),
        AlertDescription::BadCertificate
        | AlertDescription::UnknownCA
        | AlertDescription::CertificateUnknown
        | AlertDescription::CertificateExpired
        | AlertDescription::CertificateRevoked
        | AlertDescription::AccessDenied => format!("it refuses our client certificate ({alert:?}); look at {client}"),
        AlertDescription::HandshakeFailure => {
            format!("it refuses the handshake ({alert:?}); if it asks for a client certificate, set {client}")
        }
        AlertDescription::UnrecognisedName => {
            format!("it does not know the name that it was asked for; {}", rename(keys, "a name that it knows"))
        }
        other => format!("it refuses the handshake with the alert {other:?}"),
    }
}

/// rustls shows names as webpki prints them: `DnsName("a.example")`.
fn plain(name: &str) -> &str {
    name.split('"').nth(1).unwrap_or(name)
}

fn date(time: UnixTime) -> String {
    humantime::format_rfc3339_seconds(UNIX_EPOCH + Duration::from_secs(time.as_secs())).to_string()
}

#[cfg(test)]
mod tests {
    use rustls::pki_types::ServerName;

    use super::*;

    #[test]
    fn each_failure_says_what_mends_it() {
        let workspace =
            Keys { ca_file: "upstream.ca_file", name: Some("rocketchat.tls.server_name"), client: Some("rocketchat.tls.client_cert_file") };
        let host_app = Keys { ca_file: "upstream.ca_file", name: None, client: None };
        let at = |seconds| UnixTime::since_unix_epoch(Duration::from_secs(seconds));
        let other_name = || CertificateError::NotValidForNameContext {
            expected: ServerName::try_from("chat.example").unwrap(),
            presented: vec!["DnsName(\"a.example\")".into(), "DnsName(\"*.b.example\")".into()],
        };
        let cases = [
            (Error::InvalidCertificate(CertificateError::UnknownIssuer), workspace, &["upstream.ca_file"][..]),
            (Error::InvalidCertificate(other_name()), workspace, &["chat.example", "a.example, *.b.example", "rocketchat.tls.server_name"]),
            (Error::InvalidCertificate(other_name()), host_app, &["a.example, *.b.example", "in the URL"]),
            (
                Error::InvalidCertificate(CertificateError::ExpiredContext { time: at(1_700_000_001), not_after: at(1_700_000_000) }),
                workspace,
                &["expired on 2023-11-14T22:13:20Z"],
            ),
            (Error::AlertReceived(AlertDescription::CertificateRequired), workspace, &["rocketchat.tls.client_cert_file"]),
            (Error::InvalidMessage(rustls::InvalidMessage::InvalidContentType), workspace, &["does not speak TLS", "http://"]),
        ];
        for (error, keys, expected) in cases {
            let said = words(&io::Error::new(io::ErrorKind::InvalidData, error), "chat.example", keys);
            assert!(expected.iter().all(|part| said.contains(part)), "{said}");
            assert!(keys.name.is_some() || !said.contains("server_name"), "{said}");
        }
        assert_eq!(words(&io::Error::other("refused"), "chat.example", workspace), "refused");
    }
}
