//! The part of Markdown that the guides use, set with the macros of man(7).
//!
//! A heading becomes a subsection, a table of keys a list of tagged paragraphs. What is not known
//! here is text.

use roff::{Inline, Roff, bold, italic, roman};

/// Sets everything below the title of `text`, behind a heading.
pub(super) fn body(text: &str, roff: &mut Roff) {
    let mut lines = text.lines().skip_while(|line| line.is_empty() || line.starts_with("# ")).peekable();
    // A paragraph that is the first below a heading has no macro.
    let mut first = true;
    while let Some(line) = lines.next() {
        let blank = line.trim().is_empty();
        if let Some(heading) = line.trim_start_matches('#').strip_prefix(' ').filter(|_| line.starts_with('#')) {
            roff.control("SS", [heading.replace('`', "").as_str()]);
            first = true;
            continue;
        } else if line.starts_with("```") {
            verbatim(roff, first, lines.by_ref().take_while(|line| !line.starts_with("```")));
        } else if line.starts_with('|') {
            let mut rows = vec![cells(line)];
            while let Some(row) = lines.next_if(|line| line.starts_with('|')) {
                rows.push(cells(row));
            }
            table(&rows, roff);
        } else if let Some(item) = line.strip_prefix("- ") {
            let more = std::iter::from_fn(|| lines.next_if(|line| line.starts_with("  ")));
            let text = more.fold(item.to_owned(), |text, more| format!("{text} {}", more.trim()));
            roff.control("IP", ["-", "2"]).text(inlines(&text));
        } else if !blank {
            let ends = |line: &str| line.trim().is_empty() || line.starts_with(['|', '#', '`']);
            let more = std::iter::from_fn(|| lines.next_if(|line| !ends(line)));
            let text = more.fold(line.to_owned(), |text, more| format!("{text} {more}"));
            if !first {
                roff.control("PP", []);
            }
            roff.text(inlines(&text));
        }
        first = first && blank;
    }
}

/// The text below `heading`, a whole line with its `#`s, up to the next one of its level or above.
///
/// # Panics
/// There is no such heading: the guide and the program are of one tree.
pub(super) fn part<'a>(text: &'a str, heading: &str) -> &'a str {
    let level = heading.bytes().take_while(|b| *b == b'#').count();
    let begin = text.find(&format!("\n{heading}\n")).unwrap_or_else(|| panic!("there is no {heading}")) + heading.len() + 2;
    let (mut end, mut is_code) = (begin, false);
    for line in text[begin..].split_inclusive('\n') {
        is_code ^= line.starts_with("```");
        let marks = line.bytes().take_while(|b| *b == b'#').count();
        if !is_code && (1..=level).contains(&marks) && line[marks..].starts_with(' ') {
            break;
        }
        end += line.len();
    }
    text[begin..end].trim()
}

/// Lines as they are; `first`: below a heading.
pub(super) fn verbatim<S: AsRef<str>>(roff: &mut Roff, first: bool, lines: impl IntoIterator<Item = S>) {
    if !first {
        roff.control("PP", []);
    }
    roff.control("nf", []);
    for line in lines {
        roff.text([roman(line.as_ref().trim_end())]);
    }
    roff.control("fi", []);
}

fn cells(row: &str) -> Vec<&str> {
    row.trim_matches(['|', ' ']).split(" | ").map(str::trim).collect()
}

/// The first two rows are the heads and the rule below them. Four columns are key, default, meaning
/// and example.
fn table(rows: &[Vec<&str>], roff: &mut Roff) {
    for row in rows.iter().skip(2) {
        roff.control("TP", []);
        match row[..] {
            [key, default, meaning, example] => {
                let mut head = vec![bold(key.trim_matches('`')), roman(" (")];
                match default {
                    "required" | "unset" => head.push(roman(default)),
                    value => head.extend([roman("default "), roman(value.trim_matches('`'))]),
                }
                head.push(roman(")"));
                roff.text(head).text(inlines(meaning));
                roff.control("br", []).text([roman("Example: "), bold(example.trim_matches('`'))]);
            }
            [first, ..] => {
                roff.text([bold(first.trim_matches('`'))]);
                roff.text(inlines(&row[1..].join(" ")));
            }
            [] => {}
        }
    }
}

/// Code in bold, emphasis in bold, links by their text and, where they lead to another page, its
/// name.
fn inlines(text: &str) -> Vec<Inline> {
    let mut out = Vec::new();
    for (i, part) in text.split('`').enumerate() {
        match i % 2 {
            1 => out.push(bold(part)),
            _ => links(&part.replace("**", ""), &mut out),
        }
    }
    out.retain(|inline| !matches!(inline, Inline::Roman(text) if text.is_empty()));
    out
}

fn links(mut text: &str, out: &mut Vec<Inline>) {
    while let Some((before, name, to, after)) = link(text) {
        out.push(roman(before));
        out.push(roman(name));
        let page = to.split('#').next().unwrap_or_default().rsplit('/').next().unwrap_or_default();
        if !page.is_empty() && page != name {
            out.extend([roman(" ("), italic(page), roman(")")]);
        }
        text = after;
    }
    out.push(roman(text));
}

/// The first link: what is before it, its text, where it leads, and what is after it.
fn link(text: &str) -> Option<(&str, &str, &str, &str)> {
    let (head, rest) = text.split_once("](")?;
    let (before, name) = head.rsplit_once('[')?;
    let (to, after) = rest.split_once(')')?;
    Some((before, name, to, after))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn set(text: &str) -> String {
        let mut roff = Roff::new();
        body(text, &mut roff);
        roff.to_roff()
    }

    #[test]
    fn each_form() {
        for (text, want) in [
            ("# Title\n\n## `[a.b]`, c\n", ".SS \"[a.b], c\"\n"),
            ("one\ntwo `x-y` z\n\nthree", "one two \\fBx\\-y\\fR z\n.PP\nthree\n"),
            ("- a\n  b\n- c\n", ".IP - 2\na b\n.IP - 2\nc\n"),
            ("```toml\n# not a heading\n  k = 1\n```\n", ".nf\n# not a heading\n  k = 1\n.fi\n"),
            ("[here](#there) [how](a/b.md#c) [b.md](b.md).", "here how (\\fIb.md\\fR) b.md.\n"),
            ("| P | M |\n| --- | --- |\n| .*x | any |\n", ".TP\n\\fB.*x\\fR\nany\n"),
            (
                "| Key | D | M | E |\n| --- | --- | --- | --- |\n| `k` | `\"v\"` | **Does** `it`. | `k = 1` |\n",
                ".TP\n\\fBk\\fR (default \"v\")\nDoes \\fBit\\fR.\n.br\nExample: \\fBk = 1\\fR\n",
            ),
        ] {
            assert_eq!(set(text), want, "{text}");
        }
    }
}
