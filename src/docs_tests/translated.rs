//! The pages in another language say what the English ones say now.
//!
//! A translated page carries a sum of the English text above each heading. A change to the English
//! text makes this test fail, with the sum to write once the translation says the same.

use std::fs;
use std::path::Path;

/// A heading and what is below it, up to the next heading.
struct Section<'t> {
    level: usize,
    text: &'t str,
    /// The `<!-- en: … -->` above the heading.
    mark: Option<&'t str>,
}

fn sections(text: &str) -> Vec<Section<'_>> {
    let mut found: Vec<Section<'_>> = Vec::new();
    let (mut at, mut fenced, mut mark, mut begin) = (0, false, None, 0);
    for line in text.split_inclusive('\n') {
        fenced ^= line.starts_with("```");
        let level = line.bytes().take_while(|b| *b == b'#').count();
        if let Some(sum) = line.strip_prefix("<!-- en: ").and_then(|rest| rest.trim_end().strip_suffix(" -->")) {
            mark = Some(sum);
        } else if !fenced && level > 0 && line[level..].starts_with(' ') {
            if let Some(last) = found.last_mut() {
                last.text = &text[begin..at];
            }
            found.push(Section { level, text: "", mark: mark.take() });
            begin = at;
        }
        at += line.len();
    }
    if let Some(last) = found.last_mut() {
        last.text = &text[begin..];
    }
    found
}

/// FNV-1a, 32 bits: short enough to write, long enough to notice.
fn sum(text: &str) -> String {
    let sum = text.trim().bytes().fold(0x811c_9dc5_u32, |sum, byte| (sum ^ u32::from(byte)).wrapping_mul(0x0100_0193));
    format!("{sum:08x}")
}

/// The blocks of code, without the comments at the ends of lines, which are translated.
fn code(text: &str) -> Vec<String> {
    let uncommented = |line: &str| line.split("  # ").next().unwrap_or_default().trim_end().to_owned();
    let blocks = text.split("```").skip(1).step_by(2);
    blocks.map(|block| block.lines().map(uncommented).collect::<Vec<_>>().join("\n")).collect()
}

fn read(file: &str) -> String {
    fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(file)).unwrap_or_else(|e| panic!("{file}: {e}"))
}

#[test]
fn every_translation_is_of_the_present_text() {
    for (english, other) in [("README.md", "README.zh-CN.md"), ("docs/sersync.md", "docs/zh-CN/sersync.md")] {
        let (original, translated) = (read(english), read(other));
        let (original, translated) = (sections(&original), sections(&translated));
        let levels = |all: &[Section<'_>]| all.iter().map(|s| s.level).collect::<Vec<_>>();
        assert_eq!(levels(&original), levels(&translated), "{other} has other headings than {english}");
        assert!(original.len() > 5, "{english} was not read as it is written");
        let mut behind = Vec::new();
        for (from, to) in original.iter().zip(&translated) {
            let title = from.text.lines().next().unwrap_or_default();
            assert_eq!(code(from.text), code(to.text), "{other}: the code below {title:?} is not that of {english}");
            if to.mark != Some(&sum(from.text)) {
                behind.push(format!("{title:?}: then write <!-- en: {} --> above it", sum(from.text)));
            }
        }
        assert!(behind.is_empty(), "{english} has changed; say the same in {other} below\n{}", behind.join("\n"));
    }
}

#[test]
fn the_commands_of_the_quick_start_are_those_of_the_guides() {
    let guides = ["README.md", "docs/deploy.md", "docs/operating.md"].map(read);
    let page = read("docs/zh-CN/quickstart.md");
    let lines: Vec<String> =
        code(&page).iter().flat_map(|block| block.lines().skip(1).map(str::to_owned).collect::<Vec<_>>()).collect();
    assert!(lines.len() > 5, "{lines:?}");
    for line in lines {
        let found = guides.iter().any(|guide| guide.contains(&line));
        assert!(found, "docs/zh-CN/quickstart.md has {line:?}, which no English page has");
    }
}
