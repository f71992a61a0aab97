//! What is refused of feeds and followers.

use super::*;

#[test]
fn rules_of_feeds_and_followers() {
    let feed = |mirror: &str, keys: &str| {
        format!(
            "[[mirror]]\nname = \"m\"\nsource = \"/s\"\n{mirror}\n[[mirror.feed]]\nname = \"f\"\nservers = [\"nats://h\"]\n{keys}\n"
        )
    };
    let follow = |keys: &str| {
        let least = "[[follow]]\nname = \"w\"\nservers = [\"nats://h\"]\ndirectory = \"/w\"\nupstream = \"rsync://h/m\"\n";
        keys.lines().fold(least.to_owned(), |text, line| {
            let key = line.split(" = ").next().unwrap_or_default();
            let kept: Vec<&str> = text.lines().filter(|l| !l.starts_with(&format!("{key} = "))).collect();
            format!("{}\n{line}\n", kept.join("\n"))
        })
    };
    for good in [
        feed("", ""),
        follow(""),
        follow("max_delete = 5"),
        follow("upstream = \"u@h:/srv\"\nssh = \"ssh -p 2\""),
        follow("upstream = [\"rsync://r/m\", \"u@h:/srv\"]\nserve = \"rsync://me/m\""),
    ] {
        assert_eq!(messages(&good), Vec::<String>::new(), "{good}");
    }
    for (text, want) in [
        (feed("roles = true", ""), "is not supported"),
        (feed("delete = false", ""), "a feed lists all that is gone"),
        (feed("exclude = [\"/.fansync/\"]", ""), "the mark of the feed"),
        (feed("", "nats_user = \"u\""), "go together"),
        (feed("", "nkey_file = \"/n\"\nnats_user = \"u\"\nnats_password_file = \"/p\""), "two ways to log in"),
        (feed("", "replicas = 9"), "replicas is 9"),
        (feed("", "keep = \"1s\""), "keep is 1s"),
        (feed("", "servers = [\"http://h\"]").replacen("servers = [\"nats://h\"]\n", "", 1), "is neither nats://"),
        (feed("", "feed = \"a.b\""), "is no name of a feed"),
        (least("", "").replace("rsync://h/m", "nats://h/m"), "a feed is no [[mirror.target]]"),
        (follow("max_delete = \"10%\""), "it knows no share"),
        (follow("upstream = \"/srv/web\""), "nothing can be pulled from"),
        (follow("upstream = \"nats://h/web\""), "nothing can be pulled from"),
        (follow("directory = \"w\""), "is not an absolute path"),
        (follow("follower = \"a.b\""), "cannot be used"),
        (follow("servers = []"), "names no server"),
        (follow("upstream = []"), "upstream names no place"),
        (follow("upstream = [\"h:/srv\", \"rsync://h/m\"]"), "is no relay"),
        (follow("upstream = [\"rsync://h/m\", \"rsync://h/m\"]"), "is there twice"),
        (follow("serve = \"h:/srv\""), "is no module of an rsync daemon"),
        (follow("serve = \"rsync://h/m\""), "is the upstream, too"),
    ] {
        let got = messages(&text);
        assert!(got.iter().any(|message| message.contains(want)), "{text}: {got:?}");
    }
    let secret = read(&follow("servers = [\"nats://u:pw@h\"]")).unwrap_err().to_string();
    assert!(secret.contains("the target holds a password") && !secret.contains("pw@h"), "{secret}");
}
