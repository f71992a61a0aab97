//! lsyncd's configuration file: a Lua program, run for what it declares.
//!
//! Promises: the program reads nothing but its own text, the environment variables that it asks for
//! and, where the caller permits it, Lua files below its own directory. It ends within a bounded
//! number of instructions and bytes, and what it declares is bounded as well.
//!
//! How: Lua 5.4 with its tables, strings and numbers, and without files, processes, modules,
//! coroutines, finalizers and compiled chunks. `settings` and `sync` record what they are given,
//! with the line of the call. The program runs in a thread of its own: a single call of Lua's
//! library (a pattern, `table.move`) can take years, and no hook comes between. After
//! [`Bounds::time`] the caller goes on with an error.
//!
//! Gives up: such a thread ends with the process only. The import is a process of its own.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::sync::mpsc;
use std::time::{Duration, Instant};

use crate::path::Shown;
use mlua::{HookTriggers, Lua, LuaOptions, MultiValue, StdLib, Table, VmState};

/// Instructions that a configuration may take. A loop over a thousand hosts takes some ten
/// thousand.
const MAX_INSTRUCTIONS: u64 = 50_000_000;
/// Instructions between two checks of that bound. One of them may copy a text of `MAX_MEMORY`.
const INSTRUCTIONS_PER_HOOK: u32 = 1000;
/// Bytes that its values may take.
const MAX_MEMORY: usize = 64 << 20;
/// How deep tables may lie in each other.
const MAX_DEPTH: usize = 16;
/// Values in all that it declares. One table may stand in many places, at no cost in `MAX_MEMORY`.
const MAX_VALUES: usize = 50_000;
/// Bytes of the texts in all that it declares.
const MAX_TEXT: usize = 4 << 20;
/// Calls of `sync`.
const MAX_SYNCS: usize = 2000;
/// Bytes of its own text, and of each file that it includes.
const MAX_PROGRAM: usize = 256 << 10;
/// Bytes of the thread's stack. Lua itself ends at 200 calls that pass through native code.
const STACK: usize = 16 << 20;

/// How long a program may run.
#[derive(Debug, Clone, Copy)]
pub(super) struct Bounds {
    /// Instructions of its own.
    instructions: u64,
    /// With the time that Lua's library takes.
    time: Duration,
}

impl Default for Bounds {
    fn default() -> Bounds {
        Bounds { instructions: MAX_INSTRUCTIONS, time: Duration::from_secs(20) }
    }
}

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

#[cfg(test)]
impl Bounds {
    pub(super) fn of(instructions: u64) -> Bounds {
        Bounds { instructions, ..Bounds::default() }
    }

    pub(super) fn within(self, time: Duration) -> Bounds {
        Bounds { time, ..self }
    }
}

/// The tables that lsyncd has from the start. `_default` names them for [`super::convert`].
const PRELUDE: &str = r#"
lsyncdVersion = "2.2.3"
lsyncd_version = "2.2.3"
unpack = table.unpack
table.getn = function(t) return #t end
default = { rsync = { _default = "rsync" }, rsyncssh = { _default = "rsyncssh" }, direct = { _default = "direct" } }
package = { path = "", cpath = "", loaded = {}, preload = {} }
string.dump = nil
function string.starts(text, start) return string.sub(text, 1, #start) == start end
function string.ends(text, tail) return tail == "" or string.sub(text, -#tail) == tail end

local bind, text_of = setmetatable, tostring
local function closed(module, table)
    return bind(table, { __index = function(_, name)
        error(module .. "." .. text_of(name) .. " is not available in an import: it has no files, commands or network", 2)
    end })
end
os = closed("os", { getenv = getenv, time = os.time, date = os.date, clock = os.clock, difftime = os.difftime })
io = closed("io", {})
getenv = nil

-- Hooks are off while a finalizer runs, so that nothing would end it.
function setmetatable(table, meta)
    if type(meta) == "table" and rawget(meta, "__gc") ~= nil then
        error("finalizers (__gc) are not available in an import", 2)
    end
    return bind(table, meta)
end
"#;

/// Runs a program.
///
/// # Errors
/// A mistake in it, a bound that it passes, or a file that it may not read.
pub(super) fn run(text: &str, inclusion: Inclusion) -> Result<Script, Failure> {
    run_within(text, inclusion, Bounds::default())
}

/// The same with other bounds.
pub(super) fn run_within(text: &str, inclusion: Inclusion, bounds: Bounds) -> Result<Script, Failure> {
    let fail = |text: String| Failure { line: 0, text };
    if text.len() > MAX_PROGRAM {
        return Err(fail(format!("it is larger than {} KiB", MAX_PROGRAM >> 10)));
    }
    let (send, result) = mpsc::sync_channel(1);
    let program = text.to_owned();
    let begun = std::thread::Builder::new().name("lua".to_owned()).stack_size(STACK).spawn(move || {
        // Where no receiver waits any more, the bound of time has passed.
        _ = send.send(execute(&program, inclusion, bounds));
    });
    begun.map_err(|error| fail(format!("no thread for it: {error}")))?;
    match result.recv_timeout(bounds.time) {
        Ok(result) => result,
        Err(mpsc::RecvTimeoutError::Timeout) => Err(fail(ENDLESS.to_owned())),
        Err(mpsc::RecvTimeoutError::Disconnected) => Err(fail("the interpreter broke off".to_owned())),
    }
}

/// What is wrong with a program that passes a bound of its run.
const ENDLESS: &str = "the program does not come to its end";

fn execute(text: &str, inclusion: Inclusion, limits: Bounds) -> Result<Script, Failure> {
    let modules = StdLib::TABLE | StdLib::STRING | StdLib::MATH | StdLib::UTF8 | StdLib::OS;
    let lua = Lua::new_with(modules, LuaOptions::default()).map_err(|error| failure(&error))?;
    let record = Rc::new(RefCell::new(Record::default()));
    let run = || -> mlua::Result<()> {
        environment(&lua, &record, inclusion)?;
        bounds(&lua, limits)?;
        lua.load(text).set_name("=configuration").set_mode(mlua::chunk::ChunkMode::Text).exec()?;
        // Version 2.0 took an assignment, too.
        if let Ok(table) = lua.globals().get::<Table>("settings") {
            record.borrow_mut().settings(0, &table)?;
        }
        Ok(())
    };
    run().map_err(|error| failure(&error))?;
    let record = record.borrow();
    Ok(record.script.clone())
}

/// What a program has declared, and how much of it there is.
#[derive(Default)]
struct Record {
    script: Script,
    values: usize,
    text: usize,
}

impl Record {
    fn settings(&mut self, line: usize, table: &Table) -> mlua::Result<()> {
        let fields = self.fields(table, 0)?;
        self.script.settings.push(Declared { line, fields });
        Ok(())
    }

    fn sync(&mut self, line: usize, table: &Table) -> mlua::Result<()> {
        let fields = inherited(&self.fields(table, 0)?);
        self.script.syncs.push(Declared { line, fields });
        if self.script.syncs.len() > MAX_SYNCS {
            return Err(mlua::Error::runtime(format!("the program declares more than {MAX_SYNCS} syncs")));
        }
        Ok(())
    }

    /// A table as data. Metatables do nothing, as with lsyncd.
    fn fields(&mut self, table: &Table, depth: usize) -> mlua::Result<Fields> {
        if depth > MAX_DEPTH {
            return Err(mlua::Error::runtime("tables lie in each other without an end"));
        }
        let mut out = Fields::default();
        let mut listed = BTreeMap::new();
        for pair in table.pairs::<mlua::Value, mlua::Value>() {
            let (key, value) = pair?;
            self.values += 1;
            if self.values > MAX_VALUES {
                return Err(mlua::Error::runtime(format!("the program declares more than {MAX_VALUES} values")));
            }
            let value = match value {
                mlua::Value::Boolean(b) => Value::Bool(b),
                mlua::Value::Integer(n) => Value::Number(n as f64),
                mlua::Value::Number(n) => Value::Number(n),
                mlua::Value::String(text) => Value::Text(self.text(&text)?),
                mlua::Value::Table(inner) => Value::Table(self.fields(&inner, depth + 1)?),
                _ => Value::Code,
            };
            match key {
                mlua::Value::Integer(at) => _ = listed.insert(at, value),
                mlua::Value::String(name) => _ = out.named.insert(self.text(&name)?, value),
                _ => {}
            }
        }
        out.listed = listed.into_values().collect();
        Ok(out)
    }

    fn text(&mut self, text: &mlua::LuaString) -> mlua::Result<String> {
        let bytes = text.as_bytes();
        self.text += bytes.len();
        if self.text > MAX_TEXT {
            return Err(mlua::Error::runtime(format!("the program declares more than {} MiB of text", MAX_TEXT >> 20)));
        }
        let text = std::str::from_utf8(&bytes);
        text.map(str::to_owned).map_err(|_| mlua::Error::runtime(format!("the text {} is not UTF-8", Shown(&bytes))))
    }
}

/// Sets what the program finds beside the language, and takes away what could reach beyond it.
fn environment(lua: &Lua, record: &Rc<RefCell<Record>>, inclusion: Inclusion) -> mlua::Result<()> {
    let globals = lua.globals();
    for name in ["load", "loadstring", "loadfile", "dofile", "require", "collectgarbage", "xpcall"] {
        globals.set(name, mlua::Value::Nil)?;
    }
    let getenv = |lua: &Lua, name: mlua::LuaString| {
        let value = std::env::var_os(OsStr::from_bytes(&name.as_bytes()));
        value.map(|value| lua.create_string(value.as_bytes())).transpose()
    };
    globals.set("getenv", lua.create_function(getenv)?)?;
    lua.load(PRELUDE).set_name("=prelude").exec()?;
    globals.set("print", lua.create_function(|_, _: MultiValue| Ok(()))?)?;
    globals.set("log", lua.create_function(|_, _: MultiValue| Ok(()))?)?;

    let settings = Rc::clone(record);
    let call = move |lua: &Lua, table: Table| settings.borrow_mut().settings(line_of_call(lua), &table);
    globals.set("settings", lua.create_function(call)?)?;
    let syncs = Rc::clone(record);
    let call = move |lua: &Lua, table: Table| {
        syncs.borrow_mut().sync(line_of_call(lua), &table)?;
        // Some configurations read back what they declared.
        Ok(table)
    };
    globals.set("sync", lua.create_function(call)?)?;

    let below = inclusion.clone();
    globals.set("dofile", lua.create_function(move |lua, path: String| include(lua, below.as_deref(), &path))?)?;
    let below = inclusion.clone();
    globals.set("readdir", lua.create_function(move |lua, path: String| names(lua, below.as_deref(), &path))?)?;
    globals.set(
        "require",
        lua.create_function(move |lua, name: String| {
            include(lua, inclusion.as_deref(), &format!("{}.lua", name.replace('.', "/")))
        })?,
    )
}

/// Ends the program when it takes too much. A `pcall` of ours does not hide that, which Lua's own
/// would.
fn bounds(lua: &Lua, limits: Bounds) -> mlua::Result<()> {
    lua.set_memory_limit(MAX_MEMORY)?;
    let end = Instant::now() + limits.time;
    let over = Rc::new(Cell::new(false));
    let done = Cell::new(0_u64);
    let passed = Rc::clone(&over);
    lua.set_hook(HookTriggers::new().every_nth_instruction(INSTRUCTIONS_PER_HOOK), move |_, _| {
        done.set(done.get() + u64::from(INSTRUCTIONS_PER_HOOK));
        if done.get() > limits.instructions || Instant::now() > end {
            passed.set(true);
            return Err(mlua::Error::runtime(ENDLESS));
        }
        Ok(VmState::Continue)
    })?;
    let protected = lua.create_function(move |lua, (call, args): (mlua::Value, MultiValue)| {
        let result = match &call {
            mlua::Value::Function(call) => call.call::<MultiValue>(args),
            other => Err(mlua::Error::runtime(format!("attempt to call a {} value", other.type_name()))),
        };
        match result {
            Ok(mut results) => {
                results.push_front(mlua::Value::Boolean(true));
                Ok(results)
            }
            Err(error) if over.get() || matches!(cause(&error), mlua::Error::MemoryError(_)) => Err(error),
            Err(error) => {
                let text = lua.create_string(error.to_string())?;
                Ok(MultiValue::from_vec(vec![mlua::Value::Boolean(false), mlua::Value::String(text)]))
            }
        }
    })?;
    lua.globals().set("pcall", protected)
}

/// Where a file or a directory is, if it lies below the directory that is permitted.
fn permitted(below: Option<&Path>, name: &str) -> mlua::Result<PathBuf> {
    let Some(below) = below else {
        return Err(mlua::Error::runtime(format!("the file {name} is not read: give --lua-files to have it read")));
    };
    let failed = |error: std::io::Error| mlua::Error::runtime(format!("cannot read {name}: {error}"));
    let base = below.canonicalize().map_err(failed)?;
    let path = base.join(name).canonicalize().map_err(failed)?;
    if path.starts_with(&base) {
        return Ok(path);
    }
    Err(mlua::Error::runtime(format!("{name} is not read: it lies outside of {}", base.display())))
}

/// Runs another file.
fn include(lua: &Lua, below: Option<&Path>, name: &str) -> mlua::Result<MultiValue> {
    let path = permitted(below, name)?;
    let text = crate::config::read_trusted(&path).map_err(|error| mlua::Error::runtime(error.to_string()))?;
    if text.len() > MAX_PROGRAM {
        return Err(mlua::Error::runtime(format!("{name} is larger than {} KiB", MAX_PROGRAM >> 10)));
    }
    lua.load(text).set_name(format!("={name}")).set_mode(mlua::chunk::ChunkMode::Text).call(())
}

/// lsyncd's `readdir`: the names in a directory, each with whether it is a directory.
fn names(lua: &Lua, below: Option<&Path>, name: &str) -> mlua::Result<Table> {
    let path = permitted(below, name)?;
    let failed = |error: std::io::Error| mlua::Error::runtime(format!("cannot read {name}: {error}"));
    let out = lua.create_table()?;
    for entry in std::fs::read_dir(path).map_err(failed)? {
        let entry = entry.map_err(failed)?;
        let is_dir = entry.file_type().map_err(failed)?.is_dir();
        out.set(lua.create_string(entry.file_name().as_bytes())?, is_dir)?;
    }
    Ok(out)
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

/// What a function of ours failed by.
fn cause(error: &mlua::Error) -> &mlua::Error {
    let mut cause = error;
    while let mlua::Error::CallbackError { cause: inner, .. } = cause {
        cause = inner;
    }
    cause
}

/// An error of Lua's, with its line.
fn failure(error: &mlua::Error) -> Failure {
    let said = match cause(error) {
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
