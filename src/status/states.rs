//! What the status says by one word of several, as types: their names are those of the JSON, the
//! metrics and the documents.

use std::fmt;

use serde::{Deserialize, Serialize};

use super::Health;

/// An enum whose variants have names for people and programs.
macro_rules! named {
    ($(#[$of:meta])* $type:ident { $($(#[$each:meta])* $variant:ident = $name:literal,)+ }) => {
        $(#[$of])*
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
        pub enum $type {
            $($(#[$each])* #[serde(rename = $name)] $variant,)+
        }

        impl $type {
            /// All of them.
            #[cfg_attr(not(test), allow(dead_code, reason = "not every type needs it"))]
            pub(crate) const ALL: &[$type] = &[$($type::$variant),+];

            /// As it is written.
            pub(crate) fn name(self) -> &'static str {
                match self {
                    $($type::$variant => $name,)+
                }
            }
        }

        impl fmt::Display for $type {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.pad(self.name())
            }
        }
    };
}

named! {
    /// What a target does, or why it does nothing.
    TargetState {
        /// It has not answered yet.
        #[default]
        Probing = "probing",
        /// It holds every change.
        Idle = "idle",
        /// Changes are on their way.
        Syncing = "syncing",
        /// Nothing is left but paths that keep failing.
        Failing = "failing",
        /// It does not answer.
        Down = "down",
        /// It cannot be used as it is configured.
        Config = "config",
        /// Its role forbids to push to it.
        Fenced = "fenced",
        /// An operator paused it.
        Paused = "paused",
        /// The source, or deletions, wait for an operator.
        Held = "held",
    }
}

impl TargetState {
    /// What a sentence about a target says of it.
    pub(crate) fn sentence(self) -> &'static str {
        match self {
            TargetState::Probing => "has not answered yet",
            TargetState::Idle => "is in sync",
            TargetState::Syncing => "is behind",
            TargetState::Failing => "lacks paths that fail",
            TargetState::Down => "is down",
            TargetState::Config => "cannot be used as it is configured",
            TargetState::Fenced => "is not to be sent to",
            TargetState::Paused => "is paused",
            TargetState::Held => "is held",
        }
    }

    /// How grave it is by itself: a target that is `syncing` may be less than a second behind.
    pub(crate) fn health(self) -> Health {
        use TargetState::*;
        match self {
            // Of one that is fenced, the other side is the one that pushes.
            Idle | Fenced => Health::Good,
            Syncing | Paused | Probing => Health::Behind,
            Failing | Down | Config | Held => Health::Trouble,
        }
    }
}

named! {
    /// What a hook does.
    HookState {
        /// Nothing waits.
        #[default]
        Idle = "idle",
        /// Changes wait, or are being delivered.
        Working = "working",
        /// Its receiver cannot be reached.
        Retrying = "retrying",
    }
}

named! {
    /// How a mirror began.
    StartKind {
        /// That is not decided yet.
        #[default]
        Undecided = "",
        /// With a comparison of the whole tree with every target.
        Comparison = "comparison",
        /// With a walk over the source for what changed since the last stop.
        Walk = "walk",
        /// With nothing: the targets were taken as they are.
        None = "none",
    }
}

named! {
    /// How far the first pass is.
    FirstPass {
        /// There is none.
        #[default]
        None = "none",
        /// It goes on.
        Running = "running",
        /// It is through.
        Done = "done",
    }
}

named! {
    /// Where a path stands at a target.
    PathState {
        /// Nothing of it waits.
        #[default]
        InSync = "in sync",
        /// It waits to be sent.
        Pending = "pending",
        /// A run carries it.
        InFlight = "in flight",
        /// It waits for something else.
        Waiting = "waiting",
        /// It fails again and again.
        Failed = "failed",
        /// It waits for an operator.
        Held = "held",
        /// It is not mirrored.
        LeftOut = "left out",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_state_is_read_and_written_by_its_name() {
        for state in TargetState::ALL {
            assert_eq!(serde_json::to_value(state).unwrap(), state.name());
        }
        let read: Vec<PathState> =
            serde_json::from_str(r#"["in sync", "pending", "in flight", "waiting", "failed", "held", "left out"]"#).unwrap();
        assert_eq!(read, PathState::ALL);
        assert_eq!(serde_json::from_str::<StartKind>("\"\"").unwrap(), StartKind::default());
        assert_eq!(format!("{:<6}|", TargetState::Down), "down  |");
    }

    #[test]
    fn the_schema_has_the_same_states() {
        let schema: serde_json::Value =
            serde_json::from_slice(&std::fs::read(concat!(env!("CARGO_MANIFEST_DIR"), "/docs/status.schema.json")).unwrap())
                .unwrap();
        let names = |of: &[&str]| serde_json::json!(of);
        let all = |place: &str| schema.pointer(place).unwrap_or_else(|| panic!("the schema has no {place}")).clone();
        let target: Vec<&str> = TargetState::ALL.iter().map(|s| s.name()).collect();
        assert_eq!(all("/$defs/target/properties/state/enum"), names(&target));
        let hook: Vec<&str> = HookState::ALL.iter().map(|s| s.name()).collect();
        assert_eq!(all("/$defs/hook/properties/state/enum"), names(&hook));
        for (place, all) in [
            ("/$defs/start/properties/how/enum", StartKind::ALL.iter().map(|s| s.name()).collect::<Vec<_>>()),
            ("/$defs/mirror/properties/initial/enum", FirstPass::ALL.iter().map(|s| s.name()).collect()),
        ] {
            let listed = schema.pointer(place).and_then(|v| v.as_array()).expect("a list");
            assert!(listed.len() == all.len() && all.iter().all(|name| listed.contains(&(*name).into())), "{place}: {all:?}");
        }
    }
}
