//! Whose address the workspace counts rate limits by, seen in how its limiter counts.
//!
//! Rocket.Chat takes `X-Real-IP`, or, with `HTTP_FORWARDED_COUNT` = n, the n-th address of `X-Forwarded-For` from
//! the right where there are so many (`remoteAddressMiddleware.ts`), and says in `X-RateLimit-Remaining` how many
//! calls that address has left. So a few harmless reads as made-up clients (addresses of documentation, RFC 3849,
//! never used twice) show which address counts: the one that has one call less left when it comes again.

use std::net::{IpAddr, Ipv6Addr};

use http::{HeaderMap, HeaderName, HeaderValue, Method};
use url::Url;

use super::look::{self, Eyes, Look, PATIENCE};
use super::trusted_header::random;
use super::{bad, good, skipped, toml_list, warning};
use crate::config::Config;
use crate::doctor::Finding;

const COUNT: &str = "forwarded.count";
const CLIENT: &str = "forwarded.client";

const FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
const REAL_IP: HeaderName = HeaderName::from_static("x-real-ip");
const REMAINING: HeaderName = HeaderName::from_static("x-ratelimit-remaining");

/// A read that anybody may make and that is counted.
const PATH: &str = "/api/v1/settings.public?_id=Site_Url";
/// Longest chain that is looked for.
const MOST: usize = 6;

/// Which address the workspace counts by, of a call that comes straight to it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Count {
    /// `HTTP_FORWARDED_COUNT`; 0 for `X-Real-IP`.
    Is(usize),
    /// Made-up clients are counted as one: something on the way rewrites the headers.
    Shared,
    /// It could not be seen, and why.
    Unseen(String),
}

/// Which address it counts for a call by the public address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Client {
    /// Ours: the right one.
    Own(IpAddr),
    /// That of what answers at the public address: everybody has it.
    Front(IpAddr),
    /// Whichever the caller wrote into a header.
    Forgeable,
    /// One that no header of ours changes; which, could not be told.
    Fixed,
    /// It could not be seen, and why.
    Unseen(&'static str),
}

/// How the workspace counts.
#[derive(Clone, Debug)]
pub(super) struct Counting {
    count: Count,
    client: Client,
}

impl Counting {
    /// Finds out, with some twenty reads at most.
    pub(super) async fn find(config: &Config, eyes: &Eyes) -> Self {
        let looked = async {
            let asker = Asker { direct: look::rest(config, PATH), public: look::at(&config.server.public_url, PATH), eyes };
            let (count, fresh) = asker.count().await;
            let client = match (&count, fresh) {
                (Count::Is(n), Some(fresh)) => asker.client(config, *n, fresh).await,
                _ => Client::Unseen("the workspace shows no counts"),
            };
            Self { count, client }
        };
        // Each call has its own patience; all of them together get no more than twice that.
        let late =
            Self { count: Count::Unseen("the workspace answers too slowly".to_owned()), client: Client::Unseen("it answers too slowly") };
        tokio::time::timeout(PATIENCE * 2, looked).await.unwrap_or(late)
    }
}

/// An address that nobody has and nobody used before.
fn made_up() -> IpAddr {
    let random = u128::from(random()) << 32 | u128::from(random() >> 32);
    IpAddr::V6(Ipv6Addr::from(0x2001_0db8_u128 << 96 | random))
}

/// Headers that no other call has, so that a read of ours is counted for nobody.
pub(super) fn as_nobody() -> HeaderMap {
    headers(&[made_up()], made_up())
}

fn headers(forwarded: &[IpAddr], real: IpAddr) -> HeaderMap {
    let list: Vec<String> = forwarded.iter().map(ToString::to_string).collect();
    let mut headers = HeaderMap::new();
    for (name, value) in [(FORWARDED_FOR, list.join(", ")), (REAL_IP, real.to_string())] {
        // Addresses are header values.
        headers.extend(HeaderValue::from_str(&value).ok().map(|value| (name, value)));
    }
    headers
}

struct Asker<'a> {
    direct: Url,
    public: Url,
    eyes: &'a Eyes,
}

impl Asker<'_> {
    /// A read straight at the workspace; `Err` says why nothing can be seen.
    async fn direct(&self, forwarded: &[IpAddr], real: IpAddr) -> Result<u32, String> {
        let look = self.eyes.ask_workspace(&self.direct, headers(forwarded, real)).await;
        remaining(&look).ok_or_else(|| match &look.outcome {
            Err(error) => error.to_string(),
            Ok(reply) if reply.status.as_u16() == 429 => "its limit is used up at the moment".to_owned(),
            Ok(reply) if !reply.status.is_success() => {
                format!("the workspace answers {} to a read of its public settings", reply.status.as_u16())
            }
            Ok(_) => "the workspace counts nobody (API_Enable_Rate_Limiter is off), or its X-RateLimit headers are taken away".to_owned(),
        })
    }

    /// A read by the public address.
    async fn by_public(&self, forwarded: &[IpAddr], real: IpAddr) -> Option<u32> {
        remaining(&self.eyes.peep(Method::GET, &self.public, headers(forwarded, real)).await)
    }

    /// The count, and what a fresh address has left.
    async fn count(&self) -> (Count, Option<u32>) {
        match self.find_count().await {
            Ok((count, fresh)) => (count, Some(fresh)),
            Err(why) => (Count::Unseen(why), None),
        }
    }

    async fn find_count(&self) -> Result<(Count, u32), String> {
        let nobody = || [(); MOST].map(|()| made_up());
        // From the right: the first entry of `known` is X-Real-IP.
        let known = [(); MOST + 1].map(|()| made_up());
        let listed: Vec<IpAddr> = known[1..].iter().rev().copied().collect();
        let fresh = self.direct(&listed, known[0]).await?;
        if self.direct(&nobody(), made_up()).await? < fresh {
            return Ok((Count::Shared, fresh));
        }
        for (n, address) in known.iter().enumerate() {
            let mut forwarded = nobody();
            let mut real = made_up();
            match n {
                0 => real = *address,
                n => forwarded[MOST - n] = *address,
            }
            if self.direct(&forwarded, real).await? < fresh {
                return Ok((Count::Is(n), fresh));
            }
        }
        Err("the workspace counts by none of the addresses that it is told, or several instances share the work".to_owned())
    }

    /// Whose address counts by the public address.
    async fn client(&self, config: &Config, n: usize, fresh: u32) -> Client {
        let Ok(stream) = self.eyes.connect(&self.public).await else {
            return Client::Unseen("the public address cannot be reached from here");
        };
        let addresses = stream.tcp().local_addr().ok().zip(stream.tcp().peer_addr().ok());
        drop(stream);
        let Some((own, front)) = addresses.map(|(own, front)| (own.ip().to_canonical(), front.ip().to_canonical())) else {
            return Client::Unseen("the connection has no address");
        };
        let (Some(first), Some(second)) =
            (self.by_public(&[made_up(), made_up()], made_up()).await, self.by_public(&[made_up(), made_up()], made_up()).await)
        else {
            return Client::Unseen("the public address shows no counts");
        };
        if second >= first {
            let trusted = config.server.trusted_proxies.iter().any(|net| net.contains(&own));
            return match (first == fresh, trusted) {
                (true, true) => Client::Unseen("this machine is itself in server.trusted_proxies, so it is believed whatever it says"),
                (true, false) => Client::Forgeable,
                (false, _) => Client::Unseen("several instances share the work"),
            };
        }
        // Whoever's window that was has one call less left than at the second read.
        for (address, client) in [(own, Client::Own(own)), (front, Client::Front(front))] {
            let mut forwarded = [(); MOST].map(|()| made_up());
            let mut real = made_up();
            match n {
                0 => real = address,
                n => forwarded[MOST - n] = address,
            }
            if self.direct(&forwarded, real).await.is_ok_and(|left| left < second) {
                // On one machine they cannot be told apart.
                return if own == front { Client::Fixed } else { client };
            }
        }
        Client::Fixed
    }
}

fn remaining(look: &Look) -> Option<u32> {
    look.header(&REMAINING)?.parse().ok()
}

/// How the workspace counts, and by whose address.
pub(super) fn checks(config: &Config, counting: &Counting) -> Vec<Finding> {
    vec![count(config, &counting.count, &counting.client), client(config, counting)]
}

const UNSET: &str = "take HTTP_FORWARDED_COUNT out of the workspace's environment (or set it to 0) and restart it: Gantry sends the client's \
                     address as X-Real-IP";

fn count(config: &Config, count: &Count, client: &Client) -> Finding {
    let behind = !config.server.trusted_proxies.is_empty();
    match (count, behind, client) {
        (Count::Unseen(why), ..) => {
            skipped(COUNT, format!("HTTP_FORWARDED_COUNT could not be seen: {why}. For this chain it has to be unset, or 0"))
        }
        (Count::Shared, ..) => bad(
            COUNT,
            "calls of different clients are counted as one: something between Gantry and Rocket.Chat rewrites X-Real-IP and X-Forwarded-For, \
             and all people are throttled together",
            "point [rocketchat] url at Rocket.Chat's own port; or let what stands between pass them on, in nginx: proxy_set_header X-Real-IP \
             $http_x_real_ip; proxy_set_header X-Forwarded-For $http_x_forwarded_for;",
        ),
        (Count::Is(0), ..) => good(COUNT, "the workspace counts by X-Real-IP, which Gantry sends: HTTP_FORWARDED_COUNT is right"),
        (Count::Is(1), false, _) => good(COUNT, "HTTP_FORWARDED_COUNT is 1, which is the client's address as Gantry sends it"),
        (Count::Is(n), false, _) => warning(
            COUNT,
            format!(
                "HTTP_FORWARDED_COUNT is {n}, and X-Forwarded-For from Gantry has one address: sockets then have none, and login blocks meet all people"
            ),
            UNSET,
        ),
        (Count::Is(n), true, Client::Own(_)) => {
            good(COUNT, format!("HTTP_FORWARDED_COUNT is {n}, and by the public address that is the client's own"))
        }
        (Count::Is(1), true, _) => bad(
            COUNT,
            "HTTP_FORWARDED_COUNT is 1, which is the address of the proxy in front of Gantry: all people are throttled together",
            UNSET,
        ),
        (Count::Is(n), true, _) => warning(
            COUNT,
            format!(
                "HTTP_FORWARDED_COUNT is {n}, which is right only if exactly {} in front of Gantry and each appends to X-Forwarded-For: with \
                 more of them all people have one address, with fewer everybody can pose as any",
                if *n == 2 { "1 proxy stands".to_owned() } else { format!("{} proxies stand", n - 1) }
            ),
            UNSET,
        ),
    }
}

fn client(config: &Config, counting: &Counting) -> Finding {
    match &counting.client {
        Client::Unseen(why) => skipped(CLIENT, format!("by whose address people are counted could not be seen: {why}")),
        Client::Own(own) => good(CLIENT, format!("by the public address this machine is counted as {own}, its own")),
        Client::Fixed => good(CLIENT, "by the public address no header of a client changes what it is counted as"),
        Client::Front(front) => {
            let listed = config.server.trusted_proxies.iter().map(ToString::to_string);
            bad(
                CLIENT,
                format!("by the public address people are counted as {front}, which is what stands there: one address for everybody"),
                format!(
                    "[server] trusted_proxies = {}, and let it send X-Forwarded-For (in nginx: proxy_set_header X-Forwarded-For \
                     $proxy_add_x_forwarded_for;)",
                    toml_list(listed.chain([front.to_string()]))
                ),
            )
        }
        Client::Forgeable => bad(
            CLIENT,
            "by the public address a client is counted as whatever it writes into X-Forwarded-For or X-Real-IP: limits and login blocks do not hold",
            match counting.count {
                Count::Is(0 | 1) | Count::Shared | Count::Unseen(_) => {
                    "have the proxy in front replace what clients send: in nginx proxy_set_header X-Forwarded-For $remote_addr; and list in \
                     server.trusted_proxies only what stands in front"
                        .to_owned()
                }
                Count::Is(_) => UNSET.to_owned(),
            },
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config;
    use crate::doctor::Verdict;

    #[test]
    fn the_count_is_judged_by_the_chain() {
        let own = || Client::Own("192.0.2.1".parse().unwrap());
        for (trusted, seen, client, verdict, words) in [
            ("", Count::Is(0), own(), Verdict::Good, "X-Real-IP"),
            ("10.0.0.7", Count::Is(0), Client::Fixed, Verdict::Good, "X-Real-IP"),
            ("", Count::Is(1), own(), Verdict::Good, "is 1"),
            ("", Count::Is(2), own(), Verdict::Warning, "has one address"),
            ("10.0.0.7", Count::Is(1), Client::Fixed, Verdict::Bad, "the proxy in front"),
            ("10.0.0.7", Count::Is(2), own(), Verdict::Good, "is 2"),
            ("10.0.0.7", Count::Is(2), Client::Fixed, Verdict::Warning, "exactly 1 proxy"),
            ("10.0.0.7", Count::Is(4), Client::Forgeable, Verdict::Warning, "exactly 3 proxies"),
            ("", Count::Shared, own(), Verdict::Bad, "counted as one"),
            ("", Count::Unseen("x".into()), own(), Verdict::Skipped, "has to be unset"),
        ] {
            let config = config::example(&[("server.trusted_proxies", trusted)]);
            let finding = count(&config, &seen, &client);
            assert_eq!(finding.verdict, verdict, "{finding:?}");
            assert!(finding.seen.contains(words), "{finding:?}");
            let wrong = matches!(verdict, Verdict::Warning | Verdict::Bad) && seen != Count::Shared;
            assert_eq!(finding.fix.contains("take HTTP_FORWARDED_COUNT out"), wrong, "{finding:?}");
        }
    }

    #[test]
    fn whose_address_counts_is_judged() {
        let config = config::example(&[("server.trusted_proxies", "10.0.0.0/8")]);
        for (count, client_is, verdict, fix) in [
            (0, Client::Front("192.0.2.9".parse().unwrap()), Verdict::Bad, "trusted_proxies = [\"10.0.0.0/8\", \"192.0.2.9\"]"),
            (0, Client::Forgeable, Verdict::Bad, "replace what clients send"),
            (3, Client::Forgeable, Verdict::Bad, "HTTP_FORWARDED_COUNT"),
            (0, Client::Fixed, Verdict::Good, ""),
        ] {
            let finding = client(&config, &Counting { count: Count::Is(count), client: client_is });
            assert_eq!(finding.verdict, verdict, "{finding:?}");
            assert!(finding.fix.contains(fix), "{finding:?}");
        }
    }

    #[test]
    fn made_up_addresses_are_of_documentation_and_differ() {
        let net: ipnet::IpNet = "2001:db8::/32".parse().unwrap();
        let (one, other) = (made_up(), made_up());
        assert!(net.contains(&one) && net.contains(&other) && one != other);
    }
}
