"""Uses the consoles in Chromium as a person does. Run by test_console.py, which has no Selenium.

    python console_browser.py STEPS.json

STEPS.json: {"owner" or "operator": URL with token, "axe": FILE, "pictures": FOLDER or ""}; for an
owner also {"begin": FILE to make once its page is open}; for an operator {"strong": VERSION that is
in quarantine, "teacher": VERSION to withdraw, "student": PATH of a page}.
"""

import json
import shutil
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from selenium import webdriver
from selenium.webdriver import ActionChains, Keys
from selenium.webdriver.chrome.service import Service
from selenium.webdriver.common.by import By

WIDTHS = (360, 768, 1280, 1920)
OWNER = ("/", "/runs", "/releases", "/releases/acme", "/questions", "/questions/acme", "/ask")
OPERATOR = ("/", "/versions", "/quarantine", "/audit", "/metrics")
WAIT_S = 40.0


def wait(what: str, ready: Callable[[], Any]) -> Any:
    give_up = time.monotonic() + WAIT_S
    while time.monotonic() < give_up:
        found = ready()
        if found:
            return found
        time.sleep(0.1)
    raise AssertionError(f"waited for {what}")


class Person:
    """Opens pages, and notes what the browser asked for."""

    def __init__(self, address: str, axe: str, pictures: Path | None) -> None:
        options = webdriver.ChromeOptions()
        for flag in ("--headless=new", "--no-sandbox", "--disable-dev-shm-usage"):
            options.add_argument(flag)
        options.add_argument("--disable-background-networking")
        options.set_capability("goog:loggingPrefs", {"performance": "ALL", "browser": "ALL"})
        self.driver = webdriver.Chrome(options, Service(shutil.which("chromedriver")))
        self.origin = "/".join(address.split("/")[:3])
        self.axe, self.pictures = axe, pictures
        if pictures is not None:
            pictures.mkdir(parents=True, exist_ok=True)
        self.resize(1280)
        self.driver.get(address)
        assert self.driver.current_url == f"{self.origin}/", self.driver.current_url

    def resize(self, width: int) -> None:
        metrics = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": False}
        self.driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)

    def scheme(self, name: str) -> None:
        features = [{"name": "prefers-color-scheme", "value": name}]
        self.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": features})

    def open(self, path: str) -> None:
        self.driver.get(self.origin + path)

    def text(self) -> str:
        return str(self.driver.execute_script("return document.body.innerText"))

    def sees(self, *texts: str) -> None:
        for text in texts:
            wait(text, lambda text=text: text.lower() in self.text().lower())

    def picture(self, name: str) -> None:
        """Keep a screenshot of the whole page, if anybody wants to look at one."""
        if self.pictures is None:
            return
        height = self.driver.execute_script("return document.documentElement.scrollHeight")
        width = self.driver.execute_script("return innerWidth")
        metrics = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": False}
        self.driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
        self.driver.save_screenshot(str(self.pictures / f"{name}.png"))
        self.resize(width)

    def check(self, path: str) -> None:
        """Hold a page to its width and to axe, in light and in dark."""
        name = path.strip("/").replace("/", "-")[:40] or "overview"
        self.open(path)
        for width in WIDTHS:
            self.resize(width)
            wide = self.driver.execute_script(
                "return document.documentElement.scrollWidth - document.documentElement.clientWidth"
            )
            assert wide <= 0, f"{path} is {wide} pixels too wide at {width}"
            for scheme in ("light", "dark") if width in (360, 1280) else ():
                self.scheme(scheme)
                if (width, scheme) in ((360, "light"), (1280, "dark")):
                    self.pass_axe(f"{path} at {width} in {scheme}")
                self.picture(f"{name}-{width}-{scheme}")
        self.scheme("light")
        self.resize(1280)

    def pass_axe(self, where: str) -> None:
        found = self.driver.execute_async_script(
            f"{self.axe}\nconst done = arguments[arguments.length - 1];"
            "axe.run().then(found => done(found.violations), error => done(String(error)));"
        )
        assert not isinstance(found, str), found
        said = [(one["id"], [node["html"] for node in one["nodes"]]) for one in found]
        assert not said, f"{where}: {said}"

    def end(self) -> None:
        """Look at all that the browser asked for and complained of."""
        asked, sent = set(), self.driver.get_log("performance")
        for entry in sent:
            message = json.loads(entry["message"])["message"]
            if message["method"] == "Network.requestWillBeSent":
                asked.add(message["params"]["request"]["url"])
        foreign = [url for url in asked if not url.startswith((self.origin + "/", "data:"))]
        assert not foreign, foreign
        assert len(asked) > 5
        said = [entry for entry in self.driver.get_log("browser") if entry["level"] == "SEVERE"]
        assert not said, said
        self.driver.quit()


def type_over(driver: webdriver.Chrome, text: str) -> None:
    """Replace what is in the field in focus."""
    keys = ActionChains(driver).key_down(Keys.CONTROL).send_keys("a").key_up(Keys.CONTROL)
    keys.send_keys(text).perform()


class Mouse:
    """Moves the pointer to what it names, and clicks."""

    def __init__(self, person: Person) -> None:
        self.driver = person.driver

    def press(self, text: str) -> None:
        def target() -> Any:
            shown = self.driver.find_elements(By.CSS_SELECTOR, "a, button")
            return next((one for one in shown if text in (one.text or "")), None)

        found = wait(text, target)
        self.driver.execute_script("arguments[0].scrollIntoView({block: 'center'})", found)
        ActionChains(self.driver).move_to_element(found).click().perform()

    def write(self, field: str, text: str) -> None:
        self.driver.find_element(By.ID, field).click()
        type_over(self.driver, text)

    def choose(self, field: str, text: str) -> None:
        for option in self.driver.find_elements(By.CSS_SELECTOR, f"#{field} option"):
            if text in option.text:
                option.click()
                return
        raise AssertionError(f"{field} has no {text}")


class Keyboard:
    """Uses the keys alone: every step must be in reach of Tab, and seen to be in focus."""

    def __init__(self, person: Person) -> None:
        self.driver = person.driver

    def _keys(self, *keys: str) -> None:
        ActionChains(self.driver).send_keys(*keys).perform()

    def _to(self, what: str, wanted: str) -> None:
        """Press Tab until the element in focus is the wanted one."""
        for _ in range(120):
            self._keys(Keys.TAB)
            found = self.driver.execute_script(
                f"const one = document.activeElement; if (!({wanted})) return null;"
                "const style = getComputedStyle(one);"
                "return [style.outlineStyle, parseFloat(style.outlineWidth)]",
                what,
            )
            if found:
                assert found[0] != "none" and found[1] >= 2, f"{what} has no visible focus"
                return
        raise AssertionError(f"Tab does not lead to {what}")

    def press(self, text: str) -> None:
        self._to(
            text, "['A', 'BUTTON'].includes(one.tagName) && one.innerText.includes(arguments[0])"
        )
        self._keys(Keys.ENTER)

    def write(self, field: str, text: str) -> None:
        self._to(field, "one.id === arguments[0]")
        type_over(self.driver, text)

    def choose(self, field: str, text: str) -> None:
        self._to(field, "one.id === arguments[0]")
        for _ in range(20):
            chosen = "const one = document.activeElement; return one.selectedOptions[0].text"
            if text in self.driver.execute_script(chosen):
                return
            self._keys(Keys.ARROW_DOWN)
        raise AssertionError(f"{field} has no {text}")


def watch_the_run(person: Person, run: Path) -> None:
    """See a run begin and end without a reload."""
    person.open("/runs")
    person.sees("There is no run yet")
    (run / "begin").touch()
    person.sees("is running")
    person.picture("runs-in-progress")
    person.driver.find_element(By.CSS_SELECTOR, "#runs td a").click()
    person.sees("is at work")
    person.pass_axe("a run at work")
    person.picture("run-in-progress")
    (run / "go-on").touch()
    person.sees("The run has finished", "9 of 9")
    person.check(person.driver.current_url.removeprefix(person.origin))
    person.driver.find_element(By.LINK_TEXT, "Open the report").click()
    person.sees("report of a run", "went live")
    person.picture("report")
    person.driver.back()


def start_a_run(person: Person, hand: Mouse | Keyboard) -> None:
    """Start a long run and see its gradient steps, then one that has finished."""
    person.open("/")
    hand.press("Runs")
    hand.choose("file", f"{type(hand).__name__.lower()}.toml")
    hand.press("Start the run")
    person.sees("acme: started here", "at work")
    person.pass_axe("a run that was started")
    person.sees("extract: step")
    person.picture(f"started-{type(hand).__name__}")
    wait("a run at work", lambda: person.driver.find_elements(By.CSS_SELECTOR, "#runs td .running"))
    person.driver.find_element(By.CSS_SELECTOR, "#runs td a").click()
    person.sees("is at work (gradient step")
    person.picture(f"steps-{type(hand).__name__}")
    person.sees("The run has finished")
    person.open("/runs")
    person.sees("ended")


def release_and_roll_back(person: Person, hand: Mouse | Keyboard) -> None:
    """From a question to a label, a shadow, a canary, a promotion and a rollback."""
    person.open("/")
    hand.press("Ask")
    hand.write("question", "where is the kite now")
    hand.press("Get the answer")
    person.sees("view", "cosine", "furthest ahead")
    person.pass_axe("an answer")
    person.picture(f"answer-{type(hand).__name__}")
    person.open("/")
    hand.press("Questions")
    hand.press("acme")
    hand.choose("right-1", "No FAQ")
    hand.press("Label")
    person.sees("The label is kept")
    hand.press("Releases")
    hand.press("acme")
    hand.choose("mode", "shadow")
    hand.write("percent", "100")
    hand.press("Try it")
    person.sees("tried as a shadow on 100.0%")
    hand.choose("mode", "canary")
    hand.write("percent", "20")
    hand.press("Try it")
    person.sees("tried as a canary on 20.0%")
    person.pass_axe("a canary")
    person.picture(f"canary-{type(hand).__name__}")
    hand.press("Promote")
    person.sees("The candidate is live now")
    hand.press("Roll back")
    person.sees("live again", "was rolled back at")


@contextmanager
def person_at(address: str, steps: dict[str, str]) -> Iterator[Person]:
    whose = "owner" if "owner" in steps else "operator"
    pictures = Path(steps["pictures"]) / whose if steps["pictures"] else None
    person = Person(address, Path(steps["axe"]).read_text("utf-8"), pictures)
    try:
        yield person
        person.end()
    except BaseException:
        person.picture("failed")
        print(person.text(), file=sys.stderr)
        person.driver.quit()
        raise


def release_and_withdraw(person: Person, steps: dict[str, str]) -> None:
    """Release a version from quarantine by mouse, and withdraw another by keyboard."""
    mouse, keyboard = Mouse(person), Keyboard(person)
    person.open("/")
    mouse.press("Quarantine")
    mouse.press(steps["strong"][:12])
    mouse.press("Release it")
    person.sees("released from quarantine")
    person.open("/")
    keyboard.press("Versions")
    keyboard.press(steps["teacher"][:12])
    keyboard.write("reason", "a wrong licence")
    keyboard.press("Withdraw it for ever")
    person.sees("is withdrawn for ever", "a wrong licence")
    person.open(steps["student"])
    person.sees("learnt from a version that is withdrawn")


def main() -> None:
    steps = json.loads(Path(sys.argv[1]).read_text("utf-8"))
    if "owner" in steps:
        with person_at(steps["owner"], steps) as person:
            watch_the_run(person, Path(steps["run"]))
            for hand in (Mouse(person), Keyboard(person)):
                start_a_run(person, hand)
                release_and_roll_back(person, hand)
            for path in OWNER:
                person.check(path)
    else:
        with person_at(steps["operator"], steps) as person:
            for path in (*OPERATOR, steps["student"]):
                person.check(path)
            release_and_withdraw(person, steps)


main()
