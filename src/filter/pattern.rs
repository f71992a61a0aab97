//! One rsync pattern taken apart, and as a regular expression.
//!
//! A transcription of what `add_rule` and `rule_matches` in rsync's exclude.c and `dowild` in its
//! lib/wildmatch.c do (3.5.0), oddities included: whether a backslash escapes depends on a wildcard
//! anywhere in the pattern, `\**` counts as a `**` when the text to compare is chosen, a `[` that
//! is not closed matches nothing.

/// What a pattern is compared with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Text {
    /// The last component.
    Name,
    /// The path, with a slash before it.
    Path {
        /// Where in it the pattern may begin.
        head: Head,
        /// Directories carry a slash behind the path as well (`dir/***`).
        open_end: bool,
    },
}

/// Where a pattern may begin to match.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Head {
    /// At the root of the mirror: `/a`.
    Anchored,
    /// At the root or behind any slash: `a/b`, `a/**`.
    Anywhere,
    /// At the slash before the path: `**a`, so that `**/a` finds `a` at the root.
    WholeText,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Token {
    Byte(u8),
    /// `?`: one byte, no slash.
    One,
    /// `*`: bytes, no slash.
    Star,
    /// `**`: anything.
    StarStar,
    /// `[…]`, never a slash.
    Class(ByteSet),
}

/// A pattern that can match.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Rule {
    pub(super) dirs_only: bool,
    pub(super) text: Text,
    pub(super) tokens: Vec<Token>,
}

/// Takes a non-empty pattern without NUL apart; `None` when no path can match it.
pub(super) fn parse(pattern: &[u8]) -> Option<Rule> {
    let mut pattern = pattern;
    let mut dirs_only = false;
    // Only one slash: `a//` is the name "a/" with the mark of a directory, which exists nowhere.
    if let [rest @ .., b'/'] = pattern
        && !rest.is_empty()
    {
        (pattern, dirs_only) = (rest, true);
    }
    let slashes = memchr::memchr_iter(b'/', pattern).count();
    let wild = memchr::memchr3(b'*', b'[', b'?', pattern).is_some();
    let first_double = memchr::memmem::find(pattern, b"**");
    // Judged before the anchor is cut off, as in `add_rule`: `/**` does not begin with `**`.
    let text = if slashes == 0 && first_double.is_none() {
        Text::Name
    } else {
        let head = match first_double {
            _ if pattern[0] == b'/' => Head::Anchored,
            Some(0) => Head::WholeText,
            _ => Head::Anywhere,
        };
        Text::Path { head, open_end: pattern.ends_with(b"***") }
    };
    let body = pattern.strip_prefix(b"/").unwrap_or(pattern);
    let tokens = if wild { tokenize(body)? } else { body.iter().map(|&b| Token::Byte(b)).collect() };

    // `a[/]b`: rsync compares as many last components as the pattern has slashes (and one),
    // counting those in brackets, which match nothing; the numbers never agree.
    let is_slash = |t: &&Token| **t == Token::Byte(b'/');
    if wild
        && first_double.is_none()
        && matches!(text, Text::Path { head: Head::Anywhere, .. })
        && tokens.iter().filter(is_slash).count() != slashes
    {
        return None;
    }
    let rule = Rule { dirs_only, text, tokens };
    if rule.names_no_component() { None } else { Some(rule) }
}

impl Rule {
    /// Whether a component must be empty, `.` or `..`, which no component of a path is.
    fn names_no_component(&self) -> bool {
        use Token::Byte;
        let none = |component: &[Token]| matches!(component, [] | [Byte(b'.')] | [Byte(b'.'), Byte(b'.')]);
        self.tokens.split(|t| *t == Byte(b'/')).any(none)
    }

    /// The rule as an expression over the name, or over the path with a slash before it and, for a
    /// directory, one behind.
    pub(super) fn expression(&self, is_dir: bool) -> String {
        let (head, tail) = match self.text {
            Text::Name => (r"\A", r"\z"),
            Text::Path { head, open_end } => (
                match head {
                    Head::Anchored => r"\A/",
                    Head::Anywhere => "/",
                    Head::WholeText => r"\A",
                },
                if is_dir && !open_end { r"/\z" } else { r"\z" },
            ),
        };
        let mut out = String::from(head);
        for token in &self.tokens {
            match token {
                Token::Byte(b) => push_byte(&mut out, *b),
                Token::One => out.push_str("[^/]"),
                Token::Star => out.push_str("[^/]*"),
                Token::StarStar => out.push_str(".*"),
                Token::Class(set) => set.push_expression(&mut out),
            }
        }
        out.push_str(tail);
        out
    }
}

fn push_byte(out: &mut String, b: u8) {
    if b.is_ascii_alphanumeric() || b == b'/' {
        out.push(b as char);
    } else {
        out.push_str(&format!("\\x{b:02x}"));
    }
}

/// `dowild`; `None` where it would fail on every text.
fn tokenize(mut p: &[u8]) -> Option<Vec<Token>> {
    let mut tokens = Vec::with_capacity(p.len());
    while let [first, rest @ ..] = p {
        p = rest;
        tokens.push(match first {
            b'\\' => {
                let (&b, rest) = p.split_first()?;
                p = rest;
                Token::Byte(b)
            }
            b'?' => Token::One,
            b'*' => {
                let more = p.iter().take_while(|&&b| b == b'*').count();
                p = &p[more..];
                if more == 0 { Token::Star } else { Token::StarStar }
            }
            b'[' => {
                let (set, rest) = class(p)?;
                p = rest;
                if set.is_empty() {
                    return None;
                }
                Token::Class(set)
            }
            &b => Token::Byte(b),
        });
    }
    Some(tokens)
}

/// The inside of `[…]`: what it matches, and what follows the closing bracket.
fn class(p: &[u8]) -> Option<(ByteSet, &[u8])> {
    let at = |i: usize| p.get(i).copied();
    let mut set = ByteSet::default();
    let mut i = 0;
    let negated = matches!(at(i), Some(b'!' | b'^'));
    i += usize::from(negated);
    // The byte that a range may start from; none after a range or a named class.
    let mut previous = None;
    // The first byte is a member even when it is `]`.
    loop {
        let mut current = at(i)?;
        let mut member = Some(current);
        match current {
            b'\\' => {
                i += 1;
                current = at(i)?;
                member = Some(current);
                set.insert(current);
            }
            b'-' if previous.is_some() && at(i + 1).is_some_and(|b| b != b']') => {
                i += 1;
                let mut end = at(i)?;
                if end == b'\\' {
                    i += 1;
                    end = at(i)?;
                }
                (previous.expect("just seen")..=end).for_each(|b| set.insert(b));
                member = None;
            }
            b'[' if at(i + 1) == Some(b':') => {
                let close = i + 2 + memchr::memchr(b']', &p[i + 2..])?;
                match p[i + 2..close].split_last() {
                    Some((b':', name)) => {
                        let named = named_class(name)?;
                        (0..=255).filter(named).for_each(|b| set.insert(b));
                        i = close;
                        member = None;
                    }
                    // No `:]`: an ordinary `[`.
                    _ => set.insert(b'['),
                }
            }
            b => set.insert(b),
        }
        previous = member;
        i += 1;
        if at(i)? == b']' {
            break;
        }
    }
    if negated {
        set.invert();
    }
    set.remove(b'/');
    Some((set, &p[i + 1..]))
}

/// The named classes in the C locale, in which rsync is run.
fn named_class(name: &[u8]) -> Option<fn(&u8) -> bool> {
    Some(match name {
        b"alnum" => u8::is_ascii_alphanumeric,
        b"alpha" => u8::is_ascii_alphabetic,
        b"blank" => |b| matches!(b, b' ' | b'\t'),
        b"cntrl" => u8::is_ascii_control,
        b"digit" => u8::is_ascii_digit,
        b"graph" => u8::is_ascii_graphic,
        b"lower" => u8::is_ascii_lowercase,
        b"print" => |b| b.is_ascii_graphic() || *b == b' ',
        b"punct" => u8::is_ascii_punctuation,
        // Not `is_ascii_whitespace`, which leaves out the vertical tab.
        b"space" => |b| matches!(b, b' ' | b'\t'..=b'\r'),
        b"upper" => u8::is_ascii_uppercase,
        b"xdigit" => u8::is_ascii_hexdigit,
        _ => return None,
    })
}

/// A set of byte values.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct ByteSet([u64; 4]);

impl ByteSet {
    fn insert(&mut self, b: u8) {
        self.0[usize::from(b >> 6)] |= 1 << (b & 63);
    }

    fn remove(&mut self, b: u8) {
        self.0[usize::from(b >> 6)] &= !(1 << (b & 63));
    }

    fn invert(&mut self) {
        self.0.iter_mut().for_each(|word| *word = !*word);
    }

    fn is_empty(&self) -> bool {
        self.0 == [0; 4]
    }

    fn contains(&self, b: u8) -> bool {
        self.0[usize::from(b >> 6)] & (1 << (b & 63)) != 0
    }

    fn push_expression(&self, out: &mut String) {
        out.push('[');
        let mut from = 0;
        while from < 256usize {
            let run = (from..256).take_while(|&b| self.contains(b as u8)).count();
            if run > 0 {
                out.push_str(&format!("\\x{from:02x}-\\x{:02x}", from + run - 1));
            }
            from += run + 1;
        }
        out.push(']');
    }
}
