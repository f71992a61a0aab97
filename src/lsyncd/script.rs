//! lsyncd's configuration file: a Lua program, run for what it declares.
//!
//! Promises: the program reads nothing but its own text, the environment variables that it asks for
//! and, where the caller permits it, Lua files below its own directory. It ends within a bounded
//! number of instructions and of bytes.
//!
//! How: Lua 5.4 with its tables, strings and numbers, and without files, processes, modules,
//! coroutines and compiled chunks. `settings` and `sync` record what they are given, with the line
//! of the call.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::rc::Rc;

use mlua::{HookTriggers, Lua, LuaOptions, MultiValue, StdLib, Table, VmState};

/// Instructions that a configuration may take. A loop over a thousand hosts takes some ten
/// thousand.
const MAX_INSTRUCTIONS: u64 = 50_000_000;
/// Instructions between two looks at that bound.
const INSTRUCTIONS_PER_HOOK: u32 = 10_000;
/// Bytes that its values may take.
const MAX_MEMORY: usize = 64 << 20;
/// How deep tables may lie in each other.
const MAX_DEPTH: usize = 16;

/// A value of the program, as far as a configuration has such.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Value {
    Bool(bool),
    Number(f64),
    Text(String),
    Table(Fields),
    /// A function, or what else a configuration cannot carry.
    Code,
}

/// A table: what has a name, and what stands in a row.
#[derive(Debug, Clone, Default, PartialEq)]
pub(super) struct Fields {
    pub(super) named: BTreeMap<String, Value>,
    pub(super) listed: Vec<Value>,
}

/// A call of `settings` or `sync`.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Declared {
    /// Line of the call, from 1.
    pub(super) line: usize,
    pub(super) fields: Fields,
}

/// What a program declares.
#[derive(Debug, Clone, Default, PartialEq)]
pub(super) struct Script {
    pub(super) settings: Vec<Declared>,
    pub(super) syncs: Vec<Declared>,
}

/// Why a program has no result: line (0 where there is none) and reason.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Failure {
    pub(super) line: usize,
    pub(super) text: String,
}

/// Where other Lua files may be read from: below this directory.
pub(super) type Inclusion = Option<PathBuf>;

/// The tables that lsyncd has from the start. `_default` names them for [`super::convert`].
const PRELUDE: &str = r#"
lsyncdVersion = "2.2.3"
lsyncd_version = "2.2.3"
unpack = table.unpack
table.getn = function(t) return #t end
default = { rsync = { _default = "rsync" }, rsyncssh = { _default = "rsyncssh" }, direct = { _default = "direct" } }
"#;

/// Runs a program.
///
/// # Errors
/// A mistake in it, a bound that it passes, or a file that it may not read.
pub(super) fn run(text: &str, inclusion: Inclusion) -> Result<Script, Failure> {
    let lua = Lua::new_with(StdLib::TABLE | StdLib::STRING | StdLib::MATH | StdLib::UTF8, LuaOptions::default())
        .map_err(|error| failure(&error))?;
    let script = Rc::new(RefCell::new(Script::default()));
    let run = || -> mlua::Result<()> {
        lua.load(PRELUDE).set_name("=prelude").exec()?;
        environment(&lua, &script, inclusion)?;
        bounds(&lua)?;
        lua.load(text).set_name("=configuration").set_mode(mlua::chunk::ChunkMode::Text).exec()?;
        // Version 2.0 took an assignment, too.
        if let Ok(table) = lua.globals().get::<Table>("settings") {
            let fields = fields(&table, 0)?;
            script.borrow_mut().settings.push(Declared { line: 0, fields });
        }
        Ok(())
    };
    run().map_err(|error| failure(&error))?;
    let script = script.borrow();
    Ok(script.clone())
}

/// Sets what the program finds beside the language, and takes away what could reach beyond it.
fn environment(lua: &Lua, script: &Rc<RefCell<Script>>, inclusion: Inclusion) -> mlua::Result<()> {
    let globals = lua.globals();
    for name in ["load", "loadstring", "loadfile", "dofile", "require", "collectgarbage", "xpcall"] {
        globals.set(name, mlua::Value::Nil)?;
    }
    let os = lua.create_table()?;
    os.set("getenv", lua.create_function(|_, name: String| Ok(std::env::var(name).ok()))?)?;
    globals.set("os", os)?;
    globals.set("print", lua.create_function(|_, _: MultiValue| Ok(()))?)?;
    globals.set("log", lua.create_function(|_, _: MultiValue| Ok(()))?)?;

    let settings = Rc::clone(script);
    let record = move |lua: &Lua, table: Table| {
        let declared = Declared { line: line_of_call(lua), fields: fields(&table, 0)? };
        settings.borrow_mut().settings.push(declared);
        Ok(())
    };
    globals.set("settings", lua.create_function(record)?)?;
    let syncs = Rc::clone(script);
    let record = move |lua: &Lua, table: Table| {
        let declared = Declared { line: line_of_call(lua), fields: inherited(&fields(&table, 0)?) };
        syncs.borrow_mut().syncs.push(declared);
        // Some configurations read back what they declared.
        Ok(table)
    };
    globals.set("sync", lua.create_function(record)?)?;

    let below = inclusion.clone();
    globals.set("dofile", lua.create_function(move |lua, path: String| include(lua, below.as_deref(), &path))?)?;
    globals.set(
        "require",
        lua.create_function(move |lua, name: String| {
            include(lua, inclusion.as_deref(), &format!("{}.lua", name.replace('.', "/")))
        })?,
    )
}

/// Ends the program when it takes too much. A `pcall` of ours does not hide that, which Lua's own
/// would.
fn bounds(lua: &Lua) -> mlua::Result<()> {
    lua.set_memory_limit(MAX_MEMORY)?;
    let done = Rc::new(Cell::new(0_u64));
    let count = Rc::clone(&done);
    lua.set_hook(HookTriggers::new().every_nth_instruction(INSTRUCTIONS_PER_HOOK), move |_, _| {
        count.set(count.get() + u64::from(INSTRUCTIONS_PER_HOOK));
        if count.get() > MAX_INSTRUCTIONS {
            return Err(mlua::Error::runtime("the program does not come to its end"));
        }
        Ok(VmState::Continue)
    })?;
    let protected =
        lua.create_function(move |lua, (call, args): (mlua::Function, MultiValue)| match call.call::<MultiValue>(args) {
            Ok(mut results) => {
                results.push_front(mlua::Value::Boolean(true));
                Ok(results)
            }
            Err(error) if done.get() > MAX_INSTRUCTIONS || matches!(error, mlua::Error::MemoryError(_)) => Err(error),
            Err(error) => {
                let text = lua.create_string(error.to_string())?;
                Ok(MultiValue::from_vec(vec![mlua::Value::Boolean(false), mlua::Value::String(text)]))
            }
        })?;
    lua.globals().set("pcall", protected)
}

/// Runs another file, if it lies below the directory that is permitted.
fn include(lua: &Lua, below: Option<&Path>, name: &str) -> mlua::Result<MultiValue> {
    let Some(below) = below else {
        return Err(mlua::Error::runtime(format!("the file {name} is not read: give --lua-files to have it read")));
    };
    let failed = |error: std::io::Error| mlua::Error::runtime(format!("cannot read {name}: {error}"));
    let base = below.canonicalize().map_err(failed)?;
    let path = base.join(name).canonicalize().map_err(failed)?;
    if !path.starts_with(&base) {
        let text = format!("{name} is not read: it lies outside of {}", base.display());
        return Err(mlua::Error::runtime(text));
    }
    let text = crate::config::read_trusted(&path).map_err(|error| mlua::Error::runtime(error.to_string()))?;
    lua.load(text).set_name(format!("={name}")).set_mode(mlua::chunk::ChunkMode::Text).call(())
}

/// The line in the configuration of the innermost call that stands in it.
fn line_of_call(lua: &Lua) -> usize {
    (1..32)
        .map_while(|level| {
            lua.inspect_stack(level, |debug| {
                let own = debug.source().source.is_some_and(|name| name == "=configuration");
                own.then(|| debug.current_line()).flatten()
            })
        })
        .flatten()
        .next()
        .unwrap_or(0)
}

/// A table as data.
fn fields(table: &Table, depth: usize) -> mlua::Result<Fields> {
    if depth > MAX_DEPTH {
        return Err(mlua::Error::runtime("tables lie in each other without an end"));
    }
    let mut out = Fields::default();
    let mut listed = BTreeMap::new();
    for pair in table.pairs::<mlua::Value, mlua::Value>() {
        let (key, value) = pair?;
        let value = match value {
            mlua::Value::Boolean(b) => Value::Bool(b),
            mlua::Value::Integer(n) => Value::Number(n as f64),
            mlua::Value::Number(n) => Value::Number(n),
            mlua::Value::String(text) => Value::Text(text.to_str()?.to_owned()),
            mlua::Value::Table(inner) => Value::Table(fields(&inner, depth + 1)?),
            _ => Value::Code,
        };
        match key {
            mlua::Value::Integer(at) => _ = listed.insert(at, value),
            mlua::Value::String(name) => _ = out.named.insert(name.to_str()?.to_owned(), value),
            _ => {}
        }
    }
    out.listed = listed.into_values().collect();
    Ok(out)
}

/// What a `sync` says itself, over what it takes from the tables that stand in it without a name.
fn inherited(fields: &Fields) -> Fields {
    let mut out = Fields::default();
    for value in &fields.listed {
        if let Value::Table(base) = value {
            merge(&mut out.named, &inherited(base).named);
        }
    }
    merge(&mut out.named, &fields.named);
    out
}

fn merge(into: &mut BTreeMap<String, Value>, from: &BTreeMap<String, Value>) {
    for (name, value) in from {
        match (into.get_mut(name), value) {
            // Lists replace each other, tables of options add up.
            (Some(Value::Table(old)), Value::Table(new)) if new.listed.is_empty() && old.listed.is_empty() => {
                merge(&mut old.named, &new.named);
            }
            _ => _ = into.insert(name.clone(), value.clone()),
        }
    }
}

/// An error of Lua's, with its line.
fn failure(error: &mlua::Error) -> Failure {
    let mut cause = error;
    while let mlua::Error::CallbackError { cause: inner, .. } = cause {
        cause = inner;
    }
    let said = match cause {
        mlua::Error::SyntaxError { message, .. } | mlua::Error::RuntimeError(message) => message.clone(),
        other => other.to_string(),
    };
    let first = said.lines().next().unwrap_or_default();
    let placed = first.strip_prefix("configuration:").and_then(|rest| rest.split_once(": "));
    match placed.and_then(|(line, text)| Some((line.parse().ok()?, text))) {
        Some((line, text)) => Failure { line, text: text.to_owned() },
        None => Failure { line: line_in_traceback(error), text: first.to_owned() },
    }
}

/// An error that a function of ours raised has its line in the traceback only.
fn line_in_traceback(error: &mlua::Error) -> usize {
    let text = error.to_string();
    let after = text.split("configuration:").nth(1).unwrap_or_default();
    after.split(':').next().and_then(|line| line.parse().ok()).unwrap_or(0)
}
