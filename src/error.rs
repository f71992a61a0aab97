//! Errors for people.

use std::error::Error;

/// An error with its causes in one line, without a cause that is in it already.
pub(crate) fn chain(error: &dyn Error) -> String {
    let (mut text, mut next) = (error.to_string(), error.source());
    while let Some(cause) = next {
        let words = cause.to_string();
        if !text.contains(&words) {
            text = format!("{text}: {words}");
        }
        next = cause.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, thiserror::Error)]
    #[error("{0}")]
    struct Because(&'static str, #[source] Option<Box<Because>>);

    #[test]
    fn each_cause_is_named_once() {
        let because = |text, cause| Because(text, cause);
        let root = because("refused", None);
        let twice = because("connect: refused", Some(Box::new(root)));
        assert_eq!(chain(&because("cannot send", Some(Box::new(twice)))), "cannot send: connect: refused");
        assert_eq!(chain(&because("alone", None)), "alone");
    }
}
