//! The status page as HTML: rendered here, whole, so that it works without scripts too. A small script
//! fetches it again every few seconds and changes only what differs. Nothing comes from elsewhere, and the
//! policy allows the one style sheet and the one script by their hashes.

use std::fmt::{self, Write};

use aws_lc_rs::digest;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use http::HeaderValue;

use super::limits;
use super::status::{Cache, MinuteOf, Part, Person, Refusal, Status};

const STYLE: &str = include_str!("assets/status.css");
const SCRIPT: &str = include_str!("assets/status.js");
/// The plot's inner size, in its own units.
const PLOT: (u32, u32) = (720, 150);

/// The page's `Content-Security-Policy`.
pub(super) fn policy() -> HeaderValue {
    let hash = |text: &str| STANDARD.encode(digest::digest(&digest::SHA256, text.as_bytes()));
    let policy = format!(
        "default-src 'none'; style-src 'sha256-{}'; script-src 'sha256-{}'; connect-src 'self'; img-src data:; base-uri 'none'; \
         form-action 'none'; frame-ancestors 'none'",
        hash(STYLE),
        hash(SCRIPT)
    );
    HeaderValue::try_from(policy).unwrap_or_else(|_| HeaderValue::from_static("default-src 'none'"))
}

/// Text in HTML, also within a quoted attribute.
struct Safe<'t>(&'t str);

impl fmt::Display for Safe<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for c in self.0.chars() {
            match c {
                '&' => f.write_str("&amp;")?,
                '<' => f.write_str("&lt;")?,
                '>' => f.write_str("&gt;")?,
                '"' => f.write_str("&quot;")?,
                '\'' => f.write_str("&#39;")?,
                // A stranger's text must not turn the rest of the line around.
                '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}' => f.write_char('\u{fffd}')?,
                c if c.is_control() && c != '\n' => f.write_char('\u{fffd}')?,
                c => f.write_char(c)?,
            }
        }
        Ok(())
    }
}

/// The page.
pub(super) fn render(status: &Status) -> String {
    let mut out = String::with_capacity(48 * 1024);
    // Writing into a string cannot fail.
    let _ = write_page(&mut out, status);
    out
}

fn write_page(out: &mut String, status: &Status) -> fmt::Result {
    let (word, class) = match (status.stopping, status.ready, status.checks.iter().all(|check| check.ok)) {
        (true, ..) => ("stopping", "warn"),
        (_, false, _) => ("not ready", "bad"),
        (_, true, false) => ("ready, with a fault", "warn"),
        (_, true, true) => ("ready", "good"),
    };
    write!(
        out,
        "<!DOCTYPE html>\n<html lang=\"en\"><head><meta charset=\"utf-8\"><title>Gantry: {word}</title>\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\"><meta name=\"robots\" content=\"noindex\">\
         <link rel=\"icon\" href=\"data:,\"><noscript><meta http-equiv=\"refresh\" content=\"10\"></noscript>\
         <style>{STYLE}</style></head>\n<body><header><h1>Gantry</h1><span id=\"state\"><span class=\"pill {class}\">{word}</span></span>\
         <span id=\"stale\" class=\"pill bad\" role=\"status\">no answer; what follows is old</span>\
         <span class=\"sub\" id=\"version\">version {} · up {}</span></header>\n<main>",
        status.version,
        span(status.uptime_seconds)
    )?;
    numbers(out, status)?;
    logins(out, status)?;
    health(out, status)?;
    refusals(out, &status.refusals)?;
    people(out, &status.people, status.logins.people_in_the_last_hour)?;
    caches(out, &status.caches)?;
    limits::write(out, &status.limits)?;
    workspace(out, status)?;
    process(out, status)?;
    write!(
        out,
        "</main>\n<footer><span id=\"now\">as of {} UTC</span><span>looks again every 5 seconds</span><a href=\"/status.json\">as JSON</a>\
         <a href=\"/metrics\">metrics</a><a href=\"/readyz\">readiness</a></footer>\n<script>{SCRIPT}</script></body></html>\n",
        clock(&status.now)
    )
}

fn numbers(out: &mut String, status: &Status) -> fmt::Result {
    let minutes = &status.logins.minutes;
    let hour = |pick: fn(&MinuteOf) -> u32| minutes.iter().map(pick).map(u64::from).sum::<u64>();
    let connections = &status.connections;
    let cards = [
        ("people signed in", count(status.logins.people_in_the_last_hour as u64), "last hour".to_owned()),
        ("logins", count(hour(|minute| minute.signed_in)), "last hour".to_owned()),
        ("refused", count(hour(|minute| minute.refused)), format!("last hour, and {} without a session", count(hour(|m| m.no_session)))),
        ("WebSockets open", count(connections.websockets), String::new()),
        ("client connections", count(connections.all), format!("{} HTTP/1.1 · {} HTTP/2", connections.http1, connections.http2)),
        ("requests", count(connections.requests), format!("since the start · {} in flight", connections.requests_in_flight)),
    ];
    out.push_str("<section id=\"numbers\" aria-label=\"In short\"><dl>");
    for (name, value, more) in cards {
        write!(out, "<div><dt>{name}</dt><dd>{value}</dd><small>{more}</small></div>")?;
    }
    out.push_str("</dl></section>");
    Ok(())
}

fn logins(out: &mut String, status: &Status) -> fmt::Result {
    let minutes = &status.logins.minutes;
    let total = |minute: &MinuteOf| minute.signed_in + minute.no_session + minute.refused;
    let top = ceiling(minutes.iter().map(total).max().unwrap_or_default());
    let (width, height) = PLOT;
    let sums = [
        minutes.iter().map(|m| m.signed_in).sum::<u32>(),
        minutes.iter().map(|m| m.no_session).sum(),
        minutes.iter().map(|m| m.refused).sum(),
    ];
    write!(
        out,
        "<section id=\"logins\"><div class=\"head\"><h2>Logins, last hour by minute</h2><span class=\"sub\">{}</span></div>\
         <svg class=\"plot\" viewBox=\"0 0 {} {}\" role=\"img\" aria-label=\"In the last hour {} logins, {} refusals without a session, {} other refusals\">",
        status.logins.mean_seconds.map(|seconds| format!("{} each, on average", time(seconds))).unwrap_or_default(),
        width + 52,
        height + 26,
        sums[0],
        sums[1],
        sums[2]
    )?;
    for (share, value) in [(0, top), (1, top / 2), (2, 0)] {
        let y = 6 + (height - 6) * share / 2;
        write!(
            out,
            "<path class=\"rule\" d=\"M32 {y}H{}\"/><text x=\"26\" y=\"{}\" text-anchor=\"end\">{value}</text>",
            width + 40,
            y + 4
        )?;
    }
    let step = width / u32::try_from(minutes.len().max(1)).unwrap_or(60);
    for (at, minute) in (0u32..).zip(minutes) {
        let ago = u32::try_from(minutes.len()).unwrap_or(60) - 1 - at;
        let x = 36 + at * step;
        if total(minute) > 0 {
            let when = if ago == 0 { "this minute".to_owned() } else { format!("{ago} min ago") };
            write!(
                out,
                "<g><title>{when}: {} signed in, {} without a session, {} refused</title>",
                minute.signed_in, minute.no_session, minute.refused
            )?;
            let mut floor = height;
            for (class, value) in [("in", minute.signed_in), ("none", minute.no_session), ("out", minute.refused)] {
                if value > 0 {
                    // What happened is seen, however little it is beside the rest.
                    let share = u64::from(height - 6) * u64::from(value) / u64::from(top);
                    let bar = u32::try_from(share).unwrap_or(height).max(2).min(floor);
                    floor -= bar;
                    write!(out, "<rect class=\"{class}\" x=\"{x}\" y=\"{floor}\" width=\"{}\" height=\"{bar}\"/>", step - 3)?;
                }
            }
            out.push_str("</g>");
        }
        if ago.is_multiple_of(15) || at == 0 {
            let label = if ago == 0 { "now".to_owned() } else { format!("{ago} min") };
            write!(out, "<text x=\"{}\" y=\"{}\" text-anchor=\"middle\">{label}</text>", x + step / 2, height + 20)?;
        }
    }
    out.push_str("</svg><ul class=\"legend\">");
    for (class, words) in [("in", "signed in"), ("none", "no session at the host app"), ("out", "refused")] {
        write!(
            out,
            "<li><svg viewBox=\"0 0 10 10\" aria-hidden=\"true\"><rect class=\"{class}\" width=\"10\" height=\"10\" rx=\"2\"/></svg>{words}</li>"
        )?;
    }
    out.push_str("</ul></section>");
    Ok(())
}

/// A round number for the top of the plot.
fn ceiling(most: u32) -> u32 {
    let mut top = 4u32;
    while top < most {
        top = if top.to_string().starts_with('4') { (top / 4).saturating_mul(10) } else { top.saturating_mul(2) };
    }
    top
}

fn health(out: &mut String, status: &Status) -> fmt::Result {
    out.push_str("<section id=\"health\"><h2>Health</h2><ul class=\"parts\">");
    for part in &status.checks {
        write_part(out, part)?;
    }
    if let Some(reload) = &status.config_reload {
        let words = match (reload.ok, reload.for_seconds) {
            (true, Some(seconds)) => format!("in use for {}", span(seconds)),
            (true, None) => "in use".to_owned(),
            (false, _) => {
                "The configuration that was read last was refused; the one before it is in use. The log names each problem.".to_owned()
            }
        };
        row(out, "configuration", if reload.ok { ("good", "loaded") } else { ("bad", "refused") }, &words)?;
    }
    if status.certificates_good == Some(false) {
        row(out, "certificate files", ("bad", "bad"), "A pair cannot be used; the last good one is shown. The log names it.")?;
    }
    for certificate in &status.certificates {
        let state = match certificate.days_left {
            ..0 => ("bad", "ended".to_owned()),
            left @ 0..14 => ("bad", format!("{left} days left")),
            left @ 14..30 => ("warn", format!("{left} days left")),
            left => ("good", format!("{left} days left")),
        };
        let day = certificate.ends.split('T').next().unwrap_or_default();
        row(out, &format!("certificate {}", certificate.name), (state.0, &state.1), &format!("until {day}"))?;
    }
    out.push_str("</ul></section>");
    Ok(())
}

fn write_part(out: &mut String, part: &Part) -> fmt::Result {
    let name = match part.name {
        "rocketchat" => "Rocket.Chat",
        "service_account" => "service account",
        other => other,
    };
    let (state, words) = match (&part.why, part.keeps_traffic_away) {
        (None, _) => (("good", "works"), format!("for {}", span(part.for_seconds))),
        (Some(why), true) => (("bad", "down"), format!("for {}: {why}", span(part.for_seconds))),
        (Some(why), false) => (("warn", "faulty"), format!("for {}: {why}", span(part.for_seconds))),
    };
    row(out, name, state, &words)
}

fn row(out: &mut String, name: &str, (class, state): (&str, &str), words: &str) -> fmt::Result {
    write!(
        out,
        "<li><div class=\"top\"><strong>{}</strong><span class=\"pill {class}\">{state}</span></div><p>{}</p></li>",
        Safe(name),
        Safe(words)
    )
}

fn refusals(out: &mut String, refusals: &[Refusal]) -> fmt::Result {
    out.push_str("<section id=\"refusals\"><div class=\"head\"><h2>Last refused logins</h2><span class=\"sub\">the id is the one on the person's screen and in the log</span></div>");
    if refusals.is_empty() {
        out.push_str("<p class=\"empty\">Nobody was refused since the start.</p></section>");
        return Ok(());
    }
    out.push_str(
        "<div class=\"scroll\" tabindex=\"0\" role=\"region\" aria-label=\"Last refused logins\"><table><thead><tr><th scope=\"col\">when (UTC)</th>\
         <th scope=\"col\">reason</th><th scope=\"col\">who</th><th scope=\"col\">why</th><th scope=\"col\">id</th></tr></thead><tbody>",
    );
    for refusal in refusals {
        let class = match refusal.status {
            _ if refusal.everyday => "plain",
            500.. => "bad",
            _ => "warn",
        };
        write!(
            out,
            "<tr><td class=\"when\" title=\"{} ago\">{}</td><td><span class=\"pill {class}\">{}</span></td><td class=\"name who\">",
            span(refusal.seconds_ago),
            when(refusal),
            refusal.reason
        )?;
        match (&refusal.who, &refusal.client) {
            (Some(who), Some(client)) => write!(out, "{}<br><span class=\"sub\">{}</span>", Safe(who), Safe(client))?,
            (Some(one), None) | (None, Some(one)) => write!(out, "<span class=\"sub\">{}</span>", Safe(one))?,
            (None, None) => {}
        }
        write!(out, "</td><td class=\"words\">{}</td><td><code>{}</code></td></tr>", Safe(&refusal.detail), Safe(&refusal.id))?;
    }
    out.push_str("</tbody></table></div></section>");
    Ok(())
}

fn people(out: &mut String, people: &[Person], in_all: usize) -> fmt::Result {
    out.push_str("<section id=\"people\"><h2>Last signed in</h2>");
    if people.is_empty() {
        let words = if in_all == 0 { "Nobody has signed in since the start." } else { "log.audit shows nobody." };
        write!(out, "<p class=\"empty\">{words}</p></section>")?;
        return Ok(());
    }
    out.push_str(
        "<div class=\"scroll\" tabindex=\"0\" role=\"region\" aria-label=\"Last signed in\"><table><thead><tr><th scope=\"col\">who</th>\
         <th scope=\"col\">when</th><th scope=\"col\" class=\"num\">logins</th></tr></thead><tbody>",
    );
    for person in people {
        let new = if person.created { " <span class=\"pill plain\">new account</span>" } else { "" };
        let when = span(person.seconds_ago);
        let (who, logins) = (Safe(&person.who), person.logins);
        write!(out, "<tr><td class=\"name\">{who}{new}</td><td class=\"when\">{when} ago</td><td class=\"num\">{logins}</td></tr>")?;
    }
    out.push_str("</tbody></table></div></section>");
    Ok(())
}

fn caches(out: &mut String, caches: &[Cache]) -> fmt::Result {
    out.push_str(
        "<section id=\"caches\"><h2>Caches</h2><table><thead><tr><th scope=\"col\">cache</th><th scope=\"col\">hits</th>\
         <th scope=\"col\" class=\"num\">look-ups</th><th scope=\"col\" class=\"num\">entries</th></tr></thead><tbody>",
    );
    for Cache { name, entries, requests, hits } in caches {
        let share = (hits * 100).checked_div(*requests);
        write!(out, "<tr><td>{name}</td><td>")?;
        match share {
            Some(share) => write!(
                out,
                "<svg class=\"share\" viewBox=\"0 0 100 8\" preserveAspectRatio=\"none\" aria-hidden=\"true\"><rect class=\"all\" width=\"100\" \
                 height=\"8\"/><rect class=\"part\" width=\"{share}\" height=\"8\"/></svg>{share}%"
            )?,
            None => out.push('–'),
        }
        write!(out, "</td><td class=\"num\">{}</td><td class=\"num\">{}</td></tr>", count(*requests), count(*entries))?;
    }
    out.push_str("</tbody></table></section>");
    Ok(())
}

fn workspace(out: &mut String, status: &Status) -> fmt::Result {
    let chat = &status.rocketchat;
    let mut pairs = vec![
        ("version", chat.version.clone().unwrap_or_else(|| "not known yet".to_owned())),
        ("REST calls take", chat.api_mean_seconds.map_or_else(|| "–".to_owned(), time)),
        ("REST calls failed", count(chat.api_errors)),
        ("connections to it", count(chat.connections)),
        ("connecting failed", count(chat.connects_failed)),
        ("requests it failed", count(chat.requests_failed)),
    ];
    pairs.extend(status.connections.by_route.iter().take(4).map(|(route, requests)| match route.as_str() {
        "upstream" => ("forwarded", count(*requests)),
        "websocket" => ("WebSocket handshakes", count(*requests)),
        "token" => ("calls of the callback", count(*requests)),
        _ => ("our own pages", count(*requests)),
    }));
    let mut seen = Vec::new();
    pairs.retain(|(name, _)| {
        !seen.contains(name) && {
            seen.push(name);
            true
        }
    });
    write_pairs(out, "workspace", "Rocket.Chat", &pairs)
}

fn process(out: &mut String, status: &Status) -> fmt::Result {
    let process = &status.process;
    let or_dash = |value: Option<String>| value.unwrap_or_else(|| "–".to_owned());
    let fds = process.open_fds.zip(process.max_fds).map(|(open, max)| format!("{} of {}", count(open), count(max)));
    let mut pairs = vec![
        ("memory", or_dash(process.memory_bytes.map(bytes))),
        ("time on a processor", or_dash(process.cpu_seconds.map(time))),
        ("open files", or_dash(fds)),
    ];
    pairs.extend(process.log_lines_dropped.map(|dropped| ("log lines dropped", count(dropped))));
    pairs.extend(process.panics.map(|panics| ("panics", count(panics))));
    write_pairs(out, "process", "Process", &pairs)
}

fn write_pairs(out: &mut String, id: &str, title: &str, pairs: &[(&str, String)]) -> fmt::Result {
    write!(out, "<section id=\"{id}\"><h2>{title}</h2><dl class=\"pairs\">")?;
    for (name, value) in pairs {
        write!(out, "<dt>{name}</dt><dd>{}</dd>", Safe(value))?;
    }
    out.push_str("</dl></section>");
    Ok(())
}

/// The time of day, and the day too where it is not within the last 24 hours.
fn when(refusal: &Refusal) -> String {
    let day = refusal.at.get(5..10).filter(|_| refusal.seconds_ago >= 86_400);
    day.map_or_else(|| clock(&refusal.at).to_owned(), |day| format!("{day} {}", clock(&refusal.at)))
}

/// `15:04:05` of `2026-11-22T15:04:05Z`.
fn clock(rfc3339: &str) -> &str {
    rfc3339.get(11..19).unwrap_or(rfc3339)
}

/// A span of time in its two largest units.
fn span(seconds: u64) -> String {
    match seconds {
        ..60 => format!("{seconds} s"),
        60..3600 => format!("{} min", seconds / 60),
        3600..86_400 => format!("{} h {} min", seconds / 3600, seconds % 3600 / 60),
        _ => format!("{} d {} h", seconds / 86_400, seconds % 86_400 / 3600),
    }
}

/// A short time with a unit that fits.
fn time(seconds: f64) -> String {
    if seconds < 1.0 { format!("{:.1} ms", seconds * 1000.0) } else { format!("{seconds:.1} s") }
}

fn bytes(bytes: u64) -> String {
    format!("{}.{} MiB", bytes >> 20, (bytes >> 10) % 1024 * 10 / 1024)
}

/// A number with its thousands apart.
fn count(number: u64) -> String {
    let digits = number.to_string();
    let mut out = String::with_capacity(digits.len() + digits.len() / 3);
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            out.push('\u{2009}');
        }
        out.push(digit);
    }
    out
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, SystemTime};

    use http::{Request, header};
    use http_body_util::BodyExt as _;

    use super::*;
    use crate::admin::status::{self, tests::admin};
    use crate::error::RefusalKind;
    use crate::journal::Refused;
    use crate::peer::RequestId;

    async fn page(admin: &crate::admin::Admin) -> String {
        let request = Request::get("/").header(header::ACCEPT, "text/html").header(header::HOST, "localhost").body(()).unwrap();
        let body = status::answer(admin, &request).into_body().collect().await.unwrap().to_bytes();
        String::from_utf8(body.to_vec()).unwrap()
    }

    #[tokio::test]
    async fn a_strangers_text_stays_text() {
        let admin = admin();
        let evil = "<script>alert(1)</script>\"'&\u{202e}\u{7}";
        admin.metrics.journal().signed_in("1", Some(evil.into()), false);
        admin.metrics.journal().refused(Refused {
            at: SystemTime::now(),
            kind: RefusalKind::Misconfigured,
            id: RequestId::random(),
            client: Some(evil.into()),
            who: Some(evil.into()),
            detail: evil.into(),
        });
        admin.health.set("rocketchat", Err(evil.into()));
        let page = page(&admin).await;
        assert!(!page.contains("alert(1)</script>") && page.contains("&lt;script&gt;alert(1)"), "{page}");
        assert_eq!(page.matches("<script>").count(), 1, "our own");
        assert!(!page.contains('\u{202e}') && !page.contains('\u{7}'));
    }

    #[tokio::test]
    async fn the_page_has_nothing_inline_that_its_policy_forbids() {
        let admin = admin();
        admin.metrics.login("jwt", None, Duration::from_millis(3));
        admin.metrics.journal().signed_in("1", Some("ada".into()), true);
        let page = page(&admin).await;
        assert!(!page.contains(" style=") && !page.contains(" onclick=") && !page.contains("javascript:"), "{page}");
        assert!(!page.contains("http://") && !page.contains("https://"), "nothing comes from elsewhere");
        assert!(page.contains(">ada") && page.contains("new account"));
        let policy = policy();
        assert!(policy.to_str().unwrap().starts_with("default-src 'none'; style-src 'sha256-"), "{policy:?}");
    }

    #[test]
    fn numbers_are_written_for_people() {
        for (number, expected) in [(0, "0"), (999, "999"), (1000, "1\u{2009}000"), (1_234_567, "1\u{2009}234\u{2009}567")] {
            assert_eq!(count(number), expected);
        }
        for (seconds, expected) in [(0, "0 s"), (59, "59 s"), (60, "1 min"), (7_380, "2 h 3 min"), (90_000, "1 d 1 h")] {
            assert_eq!(span(seconds), expected);
        }
        for (most, expected) in [(0, 4), (4, 4), (5, 10), (11, 20), (21, 40), (41, 100), (4_000_000_000, u32::MAX)] {
            assert!(ceiling(most) >= most && (expected == u32::MAX || ceiling(most) == expected), "{most}: {}", ceiling(most));
        }
        assert_eq!((bytes(1_572_864), time(0.0123), time(2.0)), ("1.5 MiB".into(), "12.3 ms".into(), "2.0 s".into()));
    }
}
