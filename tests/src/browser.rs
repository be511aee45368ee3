//! Chromium, told what to do over its debugging pipe (the Chrome DevTools Protocol): JSON, each message followed by a zero byte.

use std::{
    fs::{File, OpenOptions},
    io::{BufRead as _, BufReader, Write as _},
    path::Path,
    process::{Child, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use serde_json::{Value, json};

use crate::DEADLINE;

/// How often a page is looked at that something is waited for.
const LOOK: Duration = Duration::from_millis(100);

/// A page in a browser of its own. Closed when dropped.
pub struct Page {
    browser: Child,
    to: File,
    from: BufReader<File>,
    session: Option<String>,
    next: u64,
}

/// Whether there is a browser on this machine.
pub fn is_there() -> bool {
    Command::new("chromium").arg("--version").stdout(Stdio::null()).stderr(Stdio::null()).status().is_ok()
}

impl Page {
    /// Opens an address in a window of this size; the browser keeps its files in `dir`.
    pub fn open(address: &str, dir: &Path, (width, height): (u32, u32)) -> Self {
        let (to, from) = (dir.join("to-browser"), dir.join("from-browser"));
        for pipe in [&to, &from] {
            assert!(Command::new("mkfifo").arg(pipe).status().is_ok_and(|status| status.success()));
        }
        // Numbers 3 and 4 are the pipe's ends.
        let script = "exec chromium --headless=new --no-sandbox --disable-gpu --ignore-certificate-errors --remote-debugging-pipe --user-data-dir=\"$3\" \
                      --autoplay-policy=no-user-gesture-required --window-size=\"$4\" 3<\"$1\" 4>\"$2\"";
        let size = format!("{width},{height}");
        let arguments = [to.as_os_str(), from.as_os_str(), dir.join("profile").as_os_str(), size.as_ref()]
            .map(ToOwned::to_owned);
        let browser = Command::new("sh")
            .args(["-c", script, "sh"])
            .args(arguments)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("a shell");
        // Each opens when the browser has opened its end.
        let to = OpenOptions::new().write(true).open(to).expect("the browser reads");
        let from = BufReader::new(File::open(from).expect("the browser writes"));
        let mut page = Self { browser, to, from, session: None, next: 0 };
        let target = page.call("Target.createTarget", json!({ "url": "about:blank" }));
        let attached =
            page.call("Target.attachToTarget", json!({ "targetId": target["targetId"], "flatten": true }));
        page.session = attached["sessionId"].as_str().map(str::to_owned);
        page.call(
            "Emulation.setDeviceMetricsOverride",
            json!({ "width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 500 }),
        );
        page.call("Page.navigate", json!({ "url": address }));
        page
    }

    fn call(&mut self, method: &str, parameters: Value) -> Value {
        self.next += 1;
        let mut message = json!({ "id": self.next, "method": method, "params": parameters });
        if let Some(session) = &self.session {
            message["sessionId"] = json!(session);
        }
        let mut bytes = message.to_string().into_bytes();
        bytes.push(0);
        self.to.write_all(&bytes).expect("the browser runs");
        loop {
            let mut answer = Vec::new();
            self.from.read_until(0, &mut answer).expect("the browser runs");
            answer.pop();
            let answer: Value = serde_json::from_slice(&answer).expect("JSON");
            if answer["id"] == self.next {
                assert!(answer["error"].is_null(), "{method}: {answer}");
                return answer["result"].clone();
            }
        }
    }

    /// The value of an expression in the page.
    pub fn evaluate(&mut self, expression: &str) -> Value {
        let parameters = json!({ "expression": expression, "returnByValue": true, "awaitPromise": true });
        let answer = self.call("Runtime.evaluate", parameters);
        assert!(answer["exceptionDetails"].is_null(), "{expression}: {answer}");
        answer["result"]["value"].clone()
    }

    /// Waits until an expression is true.
    pub fn wait_until(&mut self, expression: &str) {
        let end = Instant::now() + DEADLINE;
        while self.evaluate(expression) != json!(true) {
            if Instant::now() > end {
                let state = "JSON.stringify({ time: video.currentTime, ready: video.readyState, paused: video.paused, \
                             said: message.textContent, delay: document.getElementById('delay').textContent })";
                panic!("in vain: {expression}: {}", self.evaluate(state));
            }
            thread::sleep(LOOK);
        }
    }

    /// Presses a key.
    pub fn press(&mut self, key: &str) {
        for kind in ["keyDown", "keyUp"] {
            self.call("Input.dispatchKeyEvent", json!({ "type": kind, "key": key }));
        }
    }

    /// The page as a picture, PNG in base64.
    pub fn picture(&mut self) -> String {
        self.call("Page.captureScreenshot", json!({}))["data"].as_str().unwrap_or_default().to_owned()
    }
}

impl Drop for Page {
    fn drop(&mut self) {
        let _ = self.browser.kill();
        let _ = self.browser.wait();
    }
}
