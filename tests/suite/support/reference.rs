//! The D-Bus reference for people, made from the introspection.

#![allow(clippy::unwrap_used, reason = "a test ends at the first surprise")]

use std::fmt::Write as _;

/// Markdown with every interface, method and property, and its documentation.
pub(crate) fn of(xml: &str) -> String {
    let mut text = String::from(
        "# The D-Bus interface\n\nMade from `dbus/org.bearerd.Broker1.xml`, which is what bearerd serves; do not edit.\n\n\
         Session bus, name `org.bearerd.Broker1`, root object `/org/bearerd/Broker1`, which also has\n\
         `org.freedesktop.DBus.ObjectManager`. Account objects are `/org/bearerd/Broker1/account/NAME`, with the name encoded as\n\
         `sd_bus_path_encode(3)` does; login objects `/org/bearerd/Broker1/login/ID`. Changes are `PropertiesChanged`, one per\n\
         transition. Every call answers within 15 s, `Wait` within 20 s. Errors are `org.bearerd.Broker1.Error.*`; their messages\n\
         begin with the error's word and end with what to do, see [troubleshooting.md](troubleshooting.md).\n",
    );
    let mut doc = String::new();
    let mut in_doc = false;
    let mut method: Option<(String, Vec<String>, Vec<String>)> = None;
    for line in xml.lines().map(str::trim) {
        if line.starts_with("<!--") {
            (in_doc, doc) = (true, String::new());
        } else if line.ends_with("-->") {
            in_doc = false;
        } else if in_doc {
            doc = format!("{doc}{line}\n");
        } else if line.starts_with("<interface") {
            doc.clear();
            writeln!(text, "\n## {}", attribute(line, "name")).unwrap();
        } else if line.starts_with("<method") {
            method = Some((attribute(line, "name"), Vec::new(), Vec::new()));
        } else if line.starts_with("<arg") {
            let (_, inputs, outputs) = method.as_mut().unwrap();
            let argument = format!("{} {}", attribute(line, "type"), attribute(line, "name"));
            if attribute(line, "direction") == "in" { inputs.push(argument) } else { outputs.push(argument) }
        } else if line == "</method>" {
            let (name, inputs, outputs) = method.take().unwrap();
            let outputs =
                if outputs.is_empty() { String::new() } else { format!(" -> ({})", outputs.join(", ")) };
            let words = std::mem::take(&mut doc);
            assert!(!words.is_empty(), "undocumented: {name}");
            write!(text, "\n### `{name}({}){outputs}`\n\n{words}", inputs.join(", ")).unwrap();
        } else if line == "</interface>" {
            text.push('\n');
        } else if line.starts_with("<property") {
            let words = std::mem::take(&mut doc).trim().replace('\n', " ");
            assert!(!words.is_empty(), "undocumented: {line}");
            write!(text, "\n- `{} {}`: {words}", attribute(line, "type"), attribute(line, "name")).unwrap();
        }
    }
    text
}

fn attribute(line: &str, name: &str) -> String {
    let start = format!(" {name}=\"");
    line.split(&start).nth(1).and_then(|rest| rest.split('"').next()).unwrap_or_default().to_owned()
}
