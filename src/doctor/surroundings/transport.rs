//! What to do about a call that got no answer.

use crate::outbound::api::CallError;

/// The advice for `error` of a call to `place`, which the key `key` names.
pub(super) fn advice(error: &CallError, key: &str, place: &str) -> String {
    match error {
        CallError::Unreachable { why, .. } => unreachable(why, key, place),
        CallError::Timeout { .. } => {
            format!("look at why it hangs: curl -m 10 -i {place} from this machine; is {key} right, and does a firewall drop it?")
        }
        CallError::TooLarge { .. } => format!("set {key} to the endpoint itself: what answers there is too large to be it"),
        CallError::HeadTooLarge { .. } => {
            format!(
                "look at the headers that it sends: curl -sD - -o /dev/null {place}; take out what is large, or raise [limits] call_head"
            )
        }
        CallError::Busy { .. } => "try again: too many calls of this command were under way at once".to_owned(),
        CallError::Broken { .. } => {
            format!("what listens there does not speak HTTP/1.1 as {key} says: check scheme and port; try: curl -i {place}")
        }
    }
}

/// The advice for a connection that does not stand.
pub(super) fn unreachable(why: &str, key: &str, place: &str) -> String {
    let lower = why.to_ascii_lowercase();
    let has = |words: &[&str]| words.iter().any(|word| lower.contains(word));
    if has(&["refused"]) {
        format!("nothing listens there: start it, or set {key} to where it is; from this machine curl -i {place} has to answer")
    } else if has(&["lookup", "name or service", "resolve", "nodename", "no address"]) {
        format!(
            "this machine knows no such name: correct the host in {key}, or its DNS (getent hosts NAME); in Kubernetes it is http://SERVICE.NAMESPACE.svc"
        )
    } else if has(&["client certificate"]) {
        format!(
            "it wants to see a certificate of Gantry's: set [rocketchat.tls] client_cert_file and client_key_file for the workspace; others ({key}) get none"
        )
    } else if has(&["unknownissuer", "certificate", "invalid peer"]) {
        if has(&["expired"]) {
            format!("its certificate has expired: renew it there ({key})")
        } else if has(&["notvalidforname", "not valid for"]) {
            format!("its certificate is for another name: use a name that it holds in {key}")
        } else {
            format!(
                "its certificate is from an authority that is not trusted here: set [upstream] ca_file = \"/path/to/that-authority.pem\" ({key})"
            )
        }
    } else if has(&["corrupt message", "invalidcontenttype", "handshake", "received fatal alert", "tls"]) {
        format!("it does not speak TLS as {key} says: write http:// there, or give it a certificate")
    } else if has(&["no connection within", "timed out"]) {
        format!("a firewall or a wrong address: check {key}; curl -m 10 -i {place} from this machine has to answer")
    } else {
        format!("check {key}; curl -i {place} from this machine has to answer")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_reason_has_its_own_advice() {
        for (why, expected) in [
            ("Connection refused (os error 111)", "nothing listens there"),
            ("failed to lookup address information: Name or service not known", "knows no such name"),
            ("invalid peer certificate: UnknownIssuer", "ca_file"),
            ("invalid peer certificate: Expired", "has expired"),
            ("invalid peer certificate: certificate not valid for name \"localhost\"", "another name"),
            ("it asks for a client certificate", "client_cert_file"),
            ("received corrupt message of type InvalidContentType", "write http://"),
            ("no connection within 5s", "firewall"),
            ("something else", "check the.key"),
        ] {
            let advice = unreachable(why, "the.key", "https://app");
            assert!(advice.contains(expected) && advice.contains("the.key"), "{why}: {advice}");
        }
    }
}
