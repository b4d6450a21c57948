//! Requests that are no pages: whether the browser behind them still has the host session that its chat session was given
//! to. A chat stays open for days, and our script can be kept out of it; but whatever it asks for, a socket, a call of the
//! API, a file, comes with the browser's cookies. So nobody is shown anything by the login of whoever was here before.

use std::cell::RefCell;
use std::hash::{BuildHasher, Hasher, RandomState};
use std::time::{Duration, Instant};

use http::HeaderMap;
use http::header::{AUTHORIZATION, COOKIE, ORIGIN, REFERER};
use http::request::Parts;
use memchr::memmem;
use url::Url;

use super::Guard;
use crate::edge::route::{Paths, Route};
use crate::error::Refusal;
use crate::headers::site::{self, Relation};
use crate::identity::Credentials;
use crate::login::{Login, Missing, Verdict};

/// Browsers that a worker remembers. One that is forgotten for another is looked at again.
const PLACES: usize = 4096;

/// Browsers that were found in step, each by what it sent; of one worker.
#[derive(Debug)]
pub(in crate::edge) struct InStep {
    hasher: RandomState,
    born: Instant,
    /// What it sent, hashed, and until when that holds, in milliseconds after `born`. Zeros take no memory until the place
    /// is used.
    places: RefCell<Box<[(u64, u64)]>>,
}

impl Default for InStep {
    fn default() -> Self {
        Self { hasher: RandomState::new(), born: Instant::now(), places: RefCell::new(vec![(0, 0); PLACES].into()) }
    }
}

impl InStep {
    /// All that may stand for the two sessions. Another host session, or none, is another mark.
    fn mark(&self, headers: &HeaderMap) -> u64 {
        let mut hasher = self.hasher.build_hasher();
        for name in [COOKIE, AUTHORIZATION] {
            for value in headers.get_all(name) {
                hasher.write(value.as_bytes());
                hasher.write_u8(b'\n');
            }
            hasher.write_u8(0);
        }
        hasher.finish()
    }

    fn holds(&self, mark: u64) -> bool {
        let (kept, until) = self.places.borrow()[place(mark)];
        kept == mark && self.moment(Duration::ZERO) < until
    }

    fn note(&self, mark: u64, holds_for: Duration) {
        self.places.borrow_mut()[place(mark)] = (mark, self.moment(holds_for));
    }

    /// So long after now.
    fn moment(&self, later: Duration) -> u64 {
        u64::try_from(self.born.elapsed().saturating_add(later).as_millis()).unwrap_or(u64::MAX)
    }
}

fn place(mark: u64) -> usize {
    usize::try_from(mark % PLACES as u64).unwrap_or_default()
}

/// A request that has to be looked at.
#[derive(Clone, Copy, Debug)]
pub(in crate::edge) struct Doubt {
    /// What it is remembered by; `None` where each request speaks for itself.
    mark: Option<u64>,
}

impl Guard {
    /// Whether a request has to be looked at before it goes on. Cheap, since it is asked of each.
    pub(in crate::edge) fn doubts(&self, parts: &Parts, paths: &Paths, login: &Login, in_step: &InStep) -> Option<Doubt> {
        let name = login.bindings().name().as_bytes();
        let is_bound = |cookie: &http::HeaderValue| memmem::find(cookie.as_bytes(), name).is_some();
        if !parts.headers.get_all(COOKIE).iter().any(is_bound) {
            return None;
        }
        let mark = login.asks_again().then(|| in_step.mark(&parts.headers));
        // Our own paths, and pages, do it themselves.
        if mark.is_some_and(|mark| in_step.holds(mark)) || paths.route(parts.uri.path()) != Route::Upstream || self.asked(parts).is_some() {
            return None;
        }
        Some(Doubt { mark })
    }

    /// Looks at it, for `session.page_wait` at most. What does not belong together any more has ended then.
    pub(in crate::edge) async fn settle(
        &self,
        doubt: Doubt,
        login: &Login,
        parts: &Parts,
        credentials: Result<Credentials, Refusal>,
        in_step: &InStep,
    ) {
        let Some(binding) = login.bindings().of(&parts.headers) else { return };
        // A proxy in front may leave its headers out of what it lets through to everybody. For files and avatars our
        // cookie is enough.
        let tells = login.asks_again() && !self.is_media(parts.uri.path());
        let missing = if tells { self.missing(parts) } else { Missing::TellsNothing };
        let verdict = self.in_time(login, binding, credentials, missing).await;
        let stays = match verdict {
            // A host app that does not answer is not waited for by every request; the look goes on by itself.
            None => true,
            Some(verdict) => verdict == Verdict::Stays && missing == Missing::Tells,
        };
        if let Some(mark) = doubt.mark.filter(|_| stays) {
            in_step.note(mark, self.holds_for);
        }
    }

    fn is_media(&self, path: &str) -> bool {
        let path = path.strip_prefix(self.base.as_str()).unwrap_or(path);
        path.starts_with("/file-upload/") || path.starts_with("/avatar/")
    }

    /// What it tells that a request has no host session: nothing, where another site's page has begun it.
    pub(in crate::edge) fn missing(&self, parts: &Parts) -> Missing {
        let text = |name: &http::HeaderName| parts.headers.get(name).map(|value| value.to_str().unwrap_or_default());
        let cross = match parts.headers.get("sec-fetch-site") {
            Some(site) => site.as_bytes() == b"cross-site",
            None => [ORIGIN, REFERER].iter().filter_map(text).any(|page| {
                let page = Url::parse(page).ok();
                page.is_none_or(|page| site::relation(&page, &self.public) != Relation::Same)
            }),
        };
        if cross { Missing::TellsNothing } else { Missing::Tells }
    }
}

#[cfg(test)]
mod tests {
    use http::{HeaderName, HeaderValue, Request};

    use super::*;
    use crate::config;
    use crate::metrics::Metrics;

    fn with(fields: &[(&str, &str)]) -> Parts {
        let mut request = Request::new(());
        for (name, value) in fields {
            let name: HeaderName = name.parse().unwrap();
            request.headers_mut().append(name, HeaderValue::from_str(value).unwrap());
        }
        request.into_parts().0
    }

    #[test]
    fn a_change_of_anything_that_stands_for_a_session_is_seen() {
        let in_step = InStep::default();
        let seen: &[&[(&str, &str)]] = &[
            &[("cookie", "a=1; b=2")],
            &[("cookie", "a=1; b=3")],
            &[("cookie", "b=2")],
            &[("cookie", "a=1"), ("cookie", "b=2")],
            &[("cookie", "a=1; b=2"), ("authorization", "Bearer x")],
            &[("authorization", "a=1; b=2")],
        ];
        let marks: Vec<u64> = seen.iter().map(|fields| in_step.mark(&with(fields).headers)).collect();
        for (at, mark) in marks.iter().enumerate() {
            assert!(!in_step.holds(*mark), "{at}");
            in_step.note(*mark, Duration::from_hours(1));
            assert!(in_step.holds(*mark), "{at}");
            assert_eq!(in_step.mark(&with(seen[at]).headers), *mark);
            assert_eq!(marks.iter().filter(|other| *other == mark).count(), 1, "{at}");
        }
        in_step.note(marks[0], Duration::ZERO);
        assert!(!in_step.holds(marks[0]), "for so long and no longer");
        assert_ne!(InStep::default().mark(&with(seen[0]).headers), marks[0], "nobody can know it beforehand");
    }

    #[test]
    fn a_session_that_another_sites_request_lacks_is_not_missed() {
        use Missing::{Tells, TellsNothing};
        let config = config::example(&[("server.public_url", "https://chat.example.com")]);
        let guard = Guard::new(&config, Metrics::new(1));
        for (fields, expected) in [
            (&[][..], Tells),
            (&[("sec-fetch-site", "same-origin")], Tells),
            (&[("sec-fetch-site", "none")], Tells),
            (&[("sec-fetch-site", "same-site"), ("referer", "https://app.example.com/")], Tells),
            (&[("sec-fetch-site", "cross-site")], TellsNothing),
            (&[("origin", "https://chat.example.com")], Tells),
            (&[("referer", "https://app.example.com/page")], Tells),
            (&[("referer", "http://app.example.com/page")], TellsNothing),
            (&[("referer", "https://mail.example.org/")], TellsNothing),
            (&[("origin", "null")], TellsNothing),
        ] {
            assert_eq!(guard.missing(&with(fields)), expected, "{fields:?}");
        }
    }
}
