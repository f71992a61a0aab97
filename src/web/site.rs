//! Which document is where, and for whom.
//!
//! `/metrics` is for any process that can connect. The page, `status.json` and `history.json` hold
//! names of files and hosts, so they are for connections from this host; over ssh's `-L` that is
//! one, too.
//!
//! A web site that a user of this host has open must not be able to read any of it. Browsers keep
//! other origins from reading answers, unless the site's own name is made to stand for 127.0.0.1
//! (DNS rebinding). Such requests carry that name as their `Host`, so from this host only
//! `localhost` and loopback addresses are taken.

use std::net::IpAddr;
use std::sync::Arc;

use super::http::{Request, Response};
use crate::metrics::sampler::Sampler;
use crate::metrics::{CONTENT_TYPE, of_daemon};
use crate::status::Snapshot;

/// The mirror daemon's documents; without `page` only those that hold no names of files.
pub(crate) fn daemon(sampler: Arc<Sampler>, page: bool) -> impl Fn(&Request) -> Response + Send + Sync {
    move |request| {
        guarded(request, || match request.path.as_str() {
            path if !page && path != "/metrics" => Response::refuse(404, "there is /metrics; the page is switched off (page)"),
            "/" => Response::ok("text/html; charset=utf-8", include_str!("page.html")),
            "/page.js" => Response::ok("text/javascript; charset=utf-8", include_str!("page.js")),
            "/page.css" => Response::ok("text/css; charset=utf-8", include_str!("page.css")),
            "/icon.svg" => Response::ok("image/svg+xml", include_str!("icon.svg")),
            "/history.json" => Response::ok(JSON, sampler.history()),
            "/metrics" => sampled(&sampler, |snapshot| Response::ok(CONTENT_TYPE, of_daemon(snapshot))),
            "/status.json" => sampled(&sampler, |snapshot| match serde_json::to_vec(snapshot) {
                Ok(json) => Response::ok(JSON, json),
                Err(e) => Response::refuse(503, &e.to_string()),
            }),
            _ => Response::refuse(404, "there is /, /metrics, /status.json and /history.json"),
        })
    }
}

const JSON: &str = "application/json";

fn sampled(sampler: &Sampler, answer: impl FnOnce(&Snapshot) -> Response) -> Response {
    match sampler.snapshot() {
        Ok(snapshot) => answer(&snapshot),
        Err(why) => Response::refuse(503, &why),
    }
}

/// Answers only whom it may.
pub fn guarded(request: &Request, answer: impl FnOnce() -> Response) -> Response {
    let here = request.peer.ip().to_canonical().is_loopback();
    if here && !request.host.as_deref().is_some_and(stands_for_this_host) {
        return Response::refuse(421, "from this host, ask for localhost, 127.0.0.1 or [::1], not for another name");
    }
    if !here && request.path != "/metrics" {
        return Response::refuse(
            403,
            "this is for connections from the same host only, as over ssh -L; from elsewhere there is /metrics",
        );
    }
    answer()
}

/// Whether a `Host`, with or without a port, can only mean the loopback interface.
fn stands_for_this_host(host: &str) -> bool {
    let name = match host.strip_prefix('[') {
        Some(rest) => rest.split_once(']').map_or("", |(address, _)| address),
        None => host.split_once(':').map_or(host, |(name, _)| name),
    };
    name.eq_ignore_ascii_case("localhost") || name.parse::<IpAddr>().is_ok_and(|ip| ip.to_canonical().is_loopback())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::status::tests::snapshot;

    fn ask(peer: &str, host: Option<&str>, path: &str) -> Response {
        let site = daemon(Sampler::new(Box::new(|| Ok(snapshot()))), true);
        let request = Request { path: path.into(), host: host.map(Into::into), peer: peer.parse().unwrap() };
        site(&request)
    }

    #[test]
    fn names_that_mean_this_host() {
        for host in ["localhost", "LOCALHOST:9846", "127.0.0.1", "127.0.0.1:9846", "127.9.9.9:1", "[::1]", "[::1]:9846"] {
            assert!(stands_for_this_host(host), "{host}");
        }
        for host in [
            "",
            "evil.example",
            "evil.example:9846",
            "127.0.0.1.evil.example",
            "localhost.evil.example",
            "10.0.0.1",
            "[::2]:1",
            "[::1",
            "::1",
            "0.0.0.0",
        ] {
            assert!(!stands_for_this_host(host), "{host}");
        }
    }

    #[test]
    fn another_name_for_this_host_is_refused_and_others_get_metrics_only() {
        for (peer, host, path, status) in [
            ("127.0.0.1:5", Some("127.0.0.1:9846"), "/metrics", 200),
            ("[::ffff:127.0.0.1]:5", Some("localhost:9846"), "/metrics", 200),
            ("127.0.0.1:5", Some("rebound.example:9846"), "/metrics", 421),
            ("127.0.0.1:5", None, "/metrics", 421),
            ("10.0.0.9:5", Some("mirror.example:9846"), "/metrics", 200),
            ("10.0.0.9:5", Some("localhost"), "/", 403),
            ("10.0.0.9:5", Some("127.0.0.1"), "/status.json", 403),
            ("127.0.0.1:5", Some("localhost"), "/../etc/passwd", 404),
        ] {
            assert_eq!(ask(peer, host, path).status, status, "{peer} {host:?} {path}");
        }
    }

    #[test]
    fn the_page_loads_and_runs_only_what_is_served_here() {
        let at = |path: &str| {
            let response = ask("127.0.0.1:5", Some("localhost"), path);
            assert_eq!(response.status, 200, "{path}");
            String::from_utf8(response.body).unwrap()
        };
        let page = at("/");
        for quoted in page.split("src=\"").skip(1).chain(page.split("href=\"").skip(1)) {
            let path = format!("/{}", quoted.split('"').next().unwrap());
            at(&path);
        }
        assert!(
            !page.contains("<style") && !page.contains(" on") && !page.contains("style=") && page.matches("<script").count() == 1
        );
        for path in ["/", "/page.js", "/page.css", "/icon.svg"] {
            let text = at(path).replace("http://www.w3.org/2000/svg", "");
            for way_out in [
                "http:",
                "https:",
                "//cdn",
                "url(",
                "@import",
                "innerHTML",
                "outerHTML",
                "insertAdjacent",
                "document.write",
                "eval(",
                "Function(",
            ] {
                assert!(!text.contains(way_out), "{path} has {way_out}");
            }
        }
        let status: Snapshot = serde_json::from_str(&at("/status.json")).unwrap();
        assert_eq!(status.mirrors[0].targets[0].failures[0].path, "a\\x0a");
        assert!(at("/history.json").starts_with('{'));
    }

    #[test]
    fn without_the_page_no_name_of_a_file_is_served() {
        let site = daemon(Sampler::new(Box::new(|| Ok(snapshot()))), false);
        let ask = |path: &str| {
            let request = Request { path: path.into(), host: Some("localhost".into()), peer: "127.0.0.1:5".parse().unwrap() };
            site(&request)
        };
        for path in ["/", "/page.js", "/status.json", "/history.json"] {
            assert_eq!(ask(path).status, 404, "{path}");
        }
        let metrics = ask("/metrics");
        assert!(metrics.status == 200 && !String::from_utf8(metrics.body).unwrap().contains("a\\x0a"));
    }

    #[test]
    fn an_engine_that_does_not_answer_fails_the_scrape() {
        let site = daemon(Sampler::new(Box::new(|| Err("the engine of mirror m does not answer".into()))), true);
        let request = Request { path: "/metrics".into(), host: Some("localhost".into()), peer: "127.0.0.1:5".parse().unwrap() };
        let response = site(&request);
        assert_eq!((response.status, &response.body[..]), (503, &b"the engine of mirror m does not answer\n"[..]));
    }
}
