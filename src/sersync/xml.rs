//! The XML file: its text, its elements, and where they stand.

use std::collections::HashMap;
use std::ops::Range;

use roxmltree::Node;

use crate::config::Problem;

/// A file as text.
pub(super) struct Decoded {
    pub(super) text: String,
    /// What it was read as, when that is not UTF-8.
    pub(super) encoding: Option<&'static str>,
}

/// Whether a file's beginning is that of an XML file.
pub(crate) fn is_xml(bytes: &[u8]) -> bool {
    let bytes = bytes.strip_prefix(b"\xef\xbb\xbf").unwrap_or(bytes);
    bytes.trim_ascii_start().starts_with(b"<")
}

/// The text of a file. What is valid UTF-8 is taken for it, whatever the file declares: the sample
/// that everybody began with says ISO-8859-1, and sersync uses the bytes of a path as they stand.
/// Other bytes are read as declared.
pub(super) fn decode(bytes: &[u8]) -> Result<Decoded, Problem> {
    if bytes.starts_with(b"\xff\xfe") || bytes.starts_with(b"\xfe\xff") {
        let (text, encoding, wrong) = encoding_rs::UTF_16LE.decode(bytes);
        return match wrong {
            true => Err(Problem::new("cannot read the configuration: it is not valid UTF-16").help("save it as UTF-8")),
            false => Ok(Decoded { text: text.into_owned(), encoding: Some(encoding.name()) }),
        };
    }
    let plain = bytes.strip_prefix(b"\xef\xbb\xbf").unwrap_or(bytes);
    if let Ok(text) = std::str::from_utf8(plain) {
        return Ok(Decoded { text: text.to_owned(), encoding: None });
    }
    let Some(label) = declared(plain) else {
        let problem = Problem::new("cannot read the configuration: it is not UTF-8, and names no encoding");
        return Err(problem.help("begin it with <?xml version=\"1.0\" encoding=\"GBK\"?>, or save it as UTF-8"));
    };
    let Some(encoding) = encoding_rs::Encoding::for_label(label) else {
        let shown = String::from_utf8_lossy(label);
        return Err(
            Problem::new(format!("cannot read the configuration: its encoding {shown:?} is not known")).help("save it as UTF-8")
        );
    };
    let (text, wrong) = encoding.decode_without_bom_handling(plain);
    if wrong {
        let problem = format!("cannot read the configuration: it is not valid {}, which it says it is", encoding.name());
        return Err(Problem::new(problem).help("save it as UTF-8"));
    }
    Ok(Decoded { text: text.into_owned(), encoding: Some(encoding.name()) })
}

/// The encoding in `<?xml … encoding="…"?>`.
fn declared(bytes: &[u8]) -> Option<&[u8]> {
    let head = bytes.trim_ascii_start().strip_prefix(b"<?xml")?;
    let head = &head[..memchr::memmem::find(head, b"?>")?];
    let rest = head[memchr::memmem::find(head, b"encoding")? + 8..].trim_ascii_start().strip_prefix(b"=")?.trim_ascii_start();
    let (quote, rest) = rest.split_first()?;
    let end = rest.iter().position(|b| b == quote)?;
    Some(&rest[..end])
}

/// A syntax error with its place.
pub(super) fn syntax(text: &str, error: &roxmltree::Error) -> Problem {
    let pos = error.pos();
    let line = text.split_inclusive('\n').take((pos.row as usize).saturating_sub(1)).map(str::len).sum::<usize>();
    let rest = text.get(line..).unwrap_or_default();
    let column = rest.char_indices().nth((pos.col as usize).saturating_sub(1)).map_or(rest.len(), |(at, _)| at);
    let reason = error.to_string();
    // The place is shown by itself.
    let parsed = reason.rsplit_once(" at ").map_or(reason.as_str(), |(what, _)| what);
    let at = line + column;
    let end = text[at..].chars().next().map_or(at, |c| at + c.len_utf8());
    let secret = text[line..].lines().next().is_some_and(|l| l.contains("passwd"));
    Problem { secret, ..Problem::new(format!("this is no XML: {parsed}")).at(at..end) }
}

/// What reading has found besides values.
#[derive(Default)]
pub(super) struct Found {
    pub(super) problems: Vec<Problem>,
    pub(super) notes: Vec<(Option<Range<usize>>, String)>,
    /// Where the value of a key of the configuration stands, by its path.
    pub(super) places: HashMap<String, Range<usize>>,
}

impl Found {
    pub(super) fn note(&mut self, at: impl Into<Option<Range<usize>>>, text: impl Into<String>) {
        self.notes.push((at.into(), text.into()));
    }

    pub(super) fn wrong(&mut self, at: Range<usize>, message: impl Into<String>, help: impl Into<String>) {
        self.problems.push(Problem::new(message).at(at).help(help));
    }
}

/// One attribute.
#[derive(Clone)]
pub(super) struct Value<'a> {
    pub(super) text: &'a str,
    pub(super) at: Range<usize>,
}

#[derive(Clone, Copy)]
pub(super) struct Element<'a> {
    pub(super) node: Node<'a, 'a>,
}

impl<'a> Element<'a> {
    /// The start tag up to the first attribute, or a little of it.
    pub(super) fn at(&self) -> Range<usize> {
        let start = self.node.range().start;
        start..start + 1 + self.node.tag_name().name().len()
    }

    pub(super) fn name(&self) -> &'a str {
        self.node.tag_name().name()
    }

    pub(super) fn all(self, name: &'static str) -> impl Iterator<Item = Element<'a>> {
        self.node.children().filter(move |n| n.is_element() && n.tag_name().name() == name).map(|node| Element { node })
    }

    /// The one child of this name. Of several the first counts, as with sersync.
    pub(super) fn child(self, name: &'static str, found: &mut Found) -> Option<Element<'a>> {
        let mut all = self.all(name);
        let first = all.next();
        for more in all {
            let text = format!("a second <{name}> in <{}> is not looked at; sersync takes the first, too", self.name());
            found.note(more.at(), text);
        }
        first
    }

    pub(super) fn value(&self, name: &str) -> Option<Value<'a>> {
        let attribute = self.node.attributes().find(|a| a.name() == name)?;
        Some(Value { text: attribute.value(), at: attribute.range_value() })
    }

    /// A value that must be there.
    pub(super) fn required(&self, name: &str, found: &mut Found) -> Option<Value<'a>> {
        let value = self.value(name).filter(|v| !v.text.is_empty());
        if value.is_none() {
            let at = self.value(name).map_or_else(|| self.at(), |v| v.at);
            found.wrong(at, format!("<{}> has no {name}", self.name()), format!("add {name}=\"…\""));
            self.keep_secret(found);
        }
        value
    }

    /// A switch: exactly `true` is on, as with sersync, and anything else is noted.
    pub(super) fn flag(&self, name: &str, found: &mut Found) -> Option<bool> {
        let value = self.value(name)?;
        if value.text != "true" && value.text != "false" {
            let text =
                format!("{name}={:?} of <{}> counts as false: only \"true\" is true, as with sersync", value.text, self.name());
            found.note(value.at, text);
        }
        Some(value.text == "true")
    }

    /// A switch that is off when it is not there.
    pub(super) fn on(&self, found: &mut Found) -> bool {
        self.flag("start", found).unwrap_or_default()
    }

    /// A whole number from 1 on.
    pub(super) fn number(&self, name: &str, most: u64, found: &mut Found) -> Option<u64> {
        let value = self.required(name, found)?;
        match value.text.trim().parse::<u64>() {
            Ok(n) if (1..=most).contains(&n) => Some(n),
            _ => {
                let message = format!("{name} of <{}> is {:?}", self.name(), value.text);
                found.wrong(value.at, message, format!("write a whole number from 1 to {most}"));
                self.keep_secret(found);
                None
            }
        }
    }

    /// The line may hold a password.
    fn keep_secret(&self, found: &mut Found) {
        if let Some(problem) = found.problems.last_mut().filter(|_| self.value("passwd").is_some()) {
            problem.secret = true;
        }
    }

    /// Reports what is unknown in here.
    pub(super) fn known(&self, attributes: &[&str], children: &[&str], found: &mut Found) {
        for a in self.node.attributes().filter(|a| !attributes.contains(&a.name())) {
            found.note(a.range(), format!("{} of <{}> is unknown to sersync and does nothing", a.name(), self.name()));
        }
        for n in self.node.children().filter(|n| n.is_element() && !children.contains(&n.tag_name().name())) {
            let child = Element { node: n };
            found.note(child.at(), format!("<{}> in <{}> is unknown to sersync and does nothing", child.name(), self.name()));
        }
    }
}
