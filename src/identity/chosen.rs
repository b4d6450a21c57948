//! The identity that was picked for the local dev proxy. Nothing in a request has a say in it.

use std::sync::Arc;

use super::{Credentials, Identity, Material, SessionKey, Validated, no_session};
use crate::config::dev::Chosen;
use crate::error::Refusal;

pub(super) const SOURCE: &str = "dev";

pub(super) fn credentials(chosen: &Chosen) -> Result<Credentials, Refusal> {
    let pick = chosen.get().ok_or_else(|| no_session("nobody is picked; give --as USER, or pick somebody on the dev proxy's page"))?;
    Ok(picked(&pick.username))
}

pub(super) fn picked(username: &str) -> Credentials {
    Credentials::new(SessionKey::of(SOURCE, [username.as_bytes()]), Material::Picked(username.to_owned()))
}

/// The account is looked for by its username alone: no e-mail address, no roles.
pub(super) fn identify(username: &str) -> Validated {
    let identity = Identity {
        id: username.to_owned(),
        username: username.to_owned(),
        email: None,
        email_trusted: false,
        name: None,
        roles: Vec::new(),
        avatar: None,
    };
    Validated { identity: Arc::new(identity), expires: None, issued: None, sid: None }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::dev::Pick;
    use crate::error::RefusalKind;

    #[test]
    fn who_is_picked_is_signed_in_and_nobody_is_told_so() {
        assert_eq!(credentials(&Chosen::default()).unwrap_err().kind, RefusalKind::NoSession);
        let chosen = Chosen::new(Some("ada".to_owned()));
        let ada = credentials(&chosen).unwrap();
        let Material::Picked(name) = &ada.material else { panic!("other material") };
        assert_eq!(identify(name).identity.username, "ada");
        chosen.set(Some(Pick { username: "bob".to_owned(), user_id: None }));
        assert_ne!(credentials(&chosen).unwrap().key.0, ada.key.0);
    }
}
