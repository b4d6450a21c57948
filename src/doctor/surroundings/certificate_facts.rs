//! What a certificate says of itself, without its being believed.

use rustls::pki_types::CertificateDer;
use x509_parser::certificate::X509Certificate;
use x509_parser::extensions::{GeneralName, ParsedExtension};
use x509_parser::prelude::FromDer;

use super::shown;

/// What a certificate says of itself.
pub(super) struct Facts {
    /// The names that it is for.
    pub(super) names: Vec<String>,
    /// Whose it is.
    pub(super) subject: String,
    /// Who signed it.
    pub(super) issuer: String,
    /// Where the issuer's certificate can be had (RFC 5280 §4.2.2.1).
    pub(super) issuer_at: Option<String>,
    /// From when it is good, in seconds since 1970.
    pub(super) not_before: u64,
    /// Until when.
    pub(super) not_after: u64,
}

impl Facts {
    /// Reads a certificate; `None` when it is none.
    pub(super) fn of(der: &CertificateDer<'_>) -> Option<Self> {
        let (_, certificate) = X509Certificate::from_der(der).ok()?;
        let seconds = |time: i64| u64::try_from(time).unwrap_or_default();
        Some(Self {
            names: names(&certificate),
            subject: certificate.subject().to_string(),
            issuer: certificate.issuer().to_string(),
            issuer_at: issuer_at(&certificate),
            not_before: seconds(certificate.validity().not_before.timestamp()),
            not_after: seconds(certificate.validity().not_after.timestamp()),
        })
    }

    /// Whether it names itself as its issuer.
    pub(super) fn self_signed(&self) -> bool {
        self.subject == self.issuer
    }
}

fn names(certificate: &X509Certificate<'_>) -> Vec<String> {
    let Ok(Some(names)) = certificate.subject_alternative_name() else { return Vec::new() };
    let name = |name: &GeneralName<'_>| match name {
        GeneralName::DNSName(name) => Some(shown(name)),
        GeneralName::IPAddress(bytes) => match bytes.len() {
            4 => <[u8; 4]>::try_from(*bytes).ok().map(|ip| std::net::Ipv4Addr::from(ip).to_string()),
            _ => <[u8; 16]>::try_from(*bytes).ok().map(|ip| std::net::Ipv6Addr::from(ip).to_string()),
        },
        _ => None,
    };
    names.value.general_names.iter().filter_map(name).collect()
}

fn issuer_at(certificate: &X509Certificate<'_>) -> Option<String> {
    let access = certificate.extensions().iter().find_map(|extension| match extension.parsed_extension() {
        ParsedExtension::AuthorityInfoAccess(access) => Some(access),
        _ => None,
    })?;
    access.accessdescs.iter().find_map(|one| match &one.access_location {
        // 1.3.6.1.5.5.7.48.2 is id-ad-caIssuers.
        GeneralName::URI(uri) if one.access_method.to_id_string() == "1.3.6.1.5.5.7.48.2" => Some(shown_url(uri)),
        _ => None,
    })
}

/// A URL out of a certificate, fit for a command line.
fn shown_url(uri: &str) -> String {
    uri.chars().filter(|c| c.is_ascii_alphanumeric() || "-._~:/?=&%".contains(*c)).take(200).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_certificate_writes_no_shell() {
        assert_eq!(shown_url("http://ca/x';rm -rf ~`id`$(id)"), "http://ca/xrm-rf~idid");
    }
}
