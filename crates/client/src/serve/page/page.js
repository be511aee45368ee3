// The gateway's page: hls.js where the browser has Media Source Extensions, else the browser's own HLS.
"use strict";

(() => {
  const query = document.body.dataset.query || "";
  const at = (id) => document.getElementById(id);
  const [stage, video, message, begin] = ["stage", "video", "message", "begin"].map(at);
  const [bar, play, live, delay, mute, volume, pip, full] =
    ["bar", "play", "live", "delay", "mute", "volume", "pip", "full"].map(at);
  const whole = "index.m3u8" + query;
  // What is loaded of the time before a moment that is gone back to, in milliseconds: small steps back need no other playlist.
  const BEFORE = 600000;
  // Further behind than this the page is not live, in seconds.
  const LIVE = 8;
  // Controls go away after this time without a movement, in milliseconds.
  const IDLE = 3500;
  // Between two tries to begin again, in milliseconds.
  const AGAIN = [1000, 2000, 4000, 8000];

  let hls = null;
  // Going back beyond what the live playlist has: where in Unix milliseconds that begins; null at the live edge.
  let past = null;
  // What can be gone back to, in Unix milliseconds.
  let oldest = null;
  let tries = 0;
  let ended = false;
  // This machine's clock less the gateway's, in milliseconds.
  let ahead = 0;
  let dragging = false;
  let hasPictures = true;

  const say = (text) => { if (message.textContent !== text) message.textContent = text; };

  // --- Beginning

  function open() {
    const Hls = window.Hls;
    const source = past === null ? whole
      : `past.m3u8?start=${Math.max(oldest ?? 0, past - BEFORE)}&at=${past}` + query.replace("?", "&");
    if (Hls && Hls.isSupported()) return openWithHls(Hls, source);
    if (video.canPlayType("application/vnd.apple.mpegurl")) {
      // On iPhones, where this is the only way, it is also the one that goes to the television.
      video.src = source;
      return start();
    }
    say(document.body.dataset.hls === "yes"
      ? "This browser plays neither HLS nor Media Source Extensions. A player such as VLC opens " + here("ts.m3u8")
      : "This gateway was built without its player: run scripts/web and build it again. Until then, Safari plays here, and " +
        "players such as VLC open " + here("ts.m3u8"));
  }

  // Begins anew, at the live edge or at a moment that is gone back to.
  function openAt(moment) {
    past = moment;
    tries = 0;
    ended = false;
    say("Looking for that moment …");
    if (hls) hls.destroy();
    hls = null;
    open();
  }

  const here = (path) => new URL(path + query, location.href).href;

  function openWithHls(Hls, source) {
    const goesBack = past !== null;
    hls = new Hls({
      lowLatencyMode: !goesBack,
      // All are CMAF already: there is nothing to do for a worker.
      enableWorker: false,
      // Who goes back does not want to catch up.
      maxLiveSyncPlaybackRate: goesBack ? 1 : 1.08,
      backBufferLength: 60,
      maxBufferLength: 20,
      preferManagedMediaSource: true,
      // The gateway keeps who asks waiting until there is something.
      manifestLoadPolicy: patient(30000),
      playlistLoadPolicy: patient(40000),
      // What nobody has kept is not there a second later.
      fragLoadPolicy: patient(40000, goesBack ? 1 : 5),
    });
    video.disableRemotePlayback = Boolean(window.ManagedMediaSource);
    hls.on(Hls.Events.MANIFEST_PARSED, () => { tries = 0; say(""); start(); });
    hls.on(Hls.Events.AUDIO_TRACKS_UPDATED, showSounds);
    hls.on(Hls.Events.AUDIO_TRACK_SWITCHED, showSounds);
    hls.on(Hls.Events.SUBTITLE_TRACKS_UPDATED, showTexts);
    hls.on(Hls.Events.LEVEL_UPDATED, (_, { details }) => {
      if (!details.live && !ended) { ended = true; say("The broadcast has ended."); }
    });
    hls.on(Hls.Events.ERROR, (_, error) => { if (error.fatal) recover(Hls, error); });
    hls.attachMedia(video);
    hls.loadSource(source);
  }

  const patient = (ms, tries = 5) => ({
    default: {
      maxTimeToFirstByteMs: ms, maxLoadTimeMs: ms + 20000,
      timeoutRetry: { maxNumRetry: 3, retryDelayMs: 500, maxRetryDelayMs: 4000 },
      errorRetry: { maxNumRetry: tries, retryDelayMs: 500, maxRetryDelayMs: 4000 },
    },
  });

  function recover(Hls, error) {
    if (error.type === Hls.ErrorTypes.MEDIA_ERROR && tries === 0 && error.details !== "manifestIncompatibleCodecsError") {
      tries += 1;
      return hls.recoverMediaError();
    }
    if (error.details === "manifestIncompatibleCodecsError") {
      return say("This browser cannot decode this stream. A player such as VLC opens " + here("ts.m3u8"));
    }
    if (past !== null && error.response?.code === 404) {
      hls.stopLoad();
      return say("Nobody who can be reached has kept this moment. Choose another one, or go to live.");
    }
    say("The gateway does not answer; trying again …");
    const wait = AGAIN[Math.min(tries, AGAIN.length - 1)];
    tries += 1;
    hls.destroy();
    hls = null;
    setTimeout(open, wait);
  }

  // Browsers begin with sound only when somebody has touched the page.
  async function start() {
    say("");
    try {
      await video.play();
    } catch (error) {
      // What was begun anew meanwhile begins by itself.
      if (error.name !== "NotAllowedError") return;
      video.muted = true;
      try {
        await video.play();
        at("begin-text").textContent = "Sound on";
      } catch {
        at("begin-text").textContent = "Play";
      }
      begin.hidden = false;
    }
  }

  begin.addEventListener("click", () => {
    begin.hidden = true;
    video.muted = false;
    video.play();
    play.focus();
  });

  // --- Time

  function span() {
    const details = hls && hls.levels[hls.currentLevel >= 0 ? hls.currentLevel : hls.loadLevel]?.details;
    if (details && details.fragments.length) {
      return { from: details.fragments[0].start, to: hls.liveSyncPosition ?? details.edge };
    }
    const { seekable } = video;
    return seekable.length ? { from: seekable.start(0), to: seekable.end(seekable.length - 1) } : null;
  }

  // When what is shown came in at the source, in Unix milliseconds.
  function shownAt() {
    const zero = !hls && video.getStartDate ? video.getStartDate().getTime() : NaN;
    return hls ? hls.playingDate?.getTime() ?? NaN : zero + video.currentTime * 1000;
  }

  // Seconds since then.
  function behind() {
    const shown = shownAt();
    return Number.isFinite(shown) ? Math.max(0, (Date.now() - ahead - shown) / 1000) : NaN;
  }

  // All that can be gone back to: the first moment, what is shown and the live edge, in Unix milliseconds.
  function wholeSpan() {
    const [range, shown] = [span(), shownAt()];
    if (!range || !Number.isFinite(shown)) return null;
    const dateOf = (time) => shown + (time - video.currentTime) * 1000;
    const [first, last] = [dateOf(range.from), dateOf(range.to)];
    const edge = past === null ? last : Math.max(last, Date.now() - ahead - LIVE * 1000);
    return { from: Math.min(oldest ?? first, first), shown, edge, first, last };
  }

  function words(seconds) {
    const whole = Math.round(seconds);
    const [hours, minutes, rest] = [Math.floor(whole / 3600), Math.floor(whole / 60) % 60, whole % 60];
    const two = (number) => String(number).padStart(2, "0");
    return hours ? `${hours}:${two(minutes)}:${two(rest)}` : `${minutes}:${two(rest)}`;
  }

  // Goes to what came in at this moment.
  function seek(moment) {
    const all = wholeSpan();
    if (!all) return;
    const wanted = Math.max(moment, all.from + 500);
    if (wanted >= all.edge - 1000) return goLive();
    if (wanted >= all.first && wanted <= all.last) {
      video.currentTime += (wanted - all.shown) / 1000;
    } else {
      openAt(Math.round(wanted));
    }
  }

  const step = (seconds) => seek(shownAt() + seconds * 1000);

  function goLive() {
    if (past !== null) return openAt(null);
    const range = span();
    if (range) video.currentTime = range.to;
    video.play();
  }

  function draw() {
    const all = wholeSpan();
    const late = behind();
    const isLive = past === null && Number.isFinite(late) && late < LIVE;
    live.setAttribute("aria-pressed", String(isLive && !video.paused));
    delay.textContent = !Number.isFinite(late) ? "" : isLive ? `${late.toFixed(1)} s behind` : `${words(late)} behind`;
    if (!all || dragging) return;
    // What was live and was left paused for long is not in the live playlist any more.
    if (past === null && !video.paused && all.shown < all.first - 1000) return openAt(Math.round(all.shown));
    const length = Math.max((all.edge - all.from) / 1000, 1);
    bar.max = String(length);
    bar.value = String(Math.min((all.shown - all.from) / 1000, length));
    fill(bar);
    tell(all.edge - all.shown, all.shown);
  }

  // Says where the bar is: how long before live, and when that was.
  function tell(back, moment) {
    const when = new Date(moment).toLocaleTimeString();
    bar.setAttribute("aria-valuetext", back < LIVE * 1000 ? "live" : `${words(back / 1000)} before live, ${when}`);
    bar.title = back < LIVE * 1000 ? "" : when;
  }

  const fill = (input) => {
    const share = (100 * (input.value - input.min)) / (input.max - input.min || 1);
    input.style.setProperty("--at", `${share}%`);
  };

  // --- Controls

  const toggle = () => (video.paused ? video.play() : video.pause());
  const fullScreen = () => {
    if (document.fullscreenElement) document.exitFullscreen();
    else if (stage.requestFullscreen) stage.requestFullscreen();
    // iPhones have it for the video alone.
    else if (video.webkitEnterFullscreen) video.webkitEnterFullscreen();
  };
  const picture = () => {
    if (document.pictureInPictureElement) document.exitPictureInPicture();
    else if (video.requestPictureInPicture) video.requestPictureInPicture();
  };

  play.addEventListener("click", toggle);
  live.addEventListener("click", goLive);
  mute.addEventListener("click", () => { video.muted = !video.muted; begin.hidden = true; });
  volume.addEventListener("input", () => { video.volume = Number(volume.value); video.muted = false; });
  full.addEventListener("click", fullScreen);
  pip.addEventListener("click", picture);
  video.addEventListener("click", toggle);
  video.addEventListener("dblclick", fullScreen);
  bar.addEventListener("input", () => {
    dragging = true;
    fill(bar);
    const all = wholeSpan();
    if (!all) return;
    const moment = all.from + Number(bar.value) * 1000;
    tell(all.edge - moment, moment);
    delay.textContent = `to ${new Date(moment).toLocaleTimeString()}`;
  });
  bar.addEventListener("change", () => {
    dragging = false;
    const all = wholeSpan();
    if (all) seek(all.from + Number(bar.value) * 1000);
  });
  pip.hidden = !document.pictureInPictureEnabled;

  const showState = () => {
    stage.classList.toggle("playing", !video.paused);
    play.setAttribute("aria-label", video.paused ? "Play" : "Pause");
    mute.setAttribute("aria-pressed", String(video.muted || video.volume === 0));
    mute.setAttribute("aria-label", video.muted ? "Sound on" : "Mute");
    full.setAttribute("aria-pressed", String(Boolean(document.fullscreenElement)));
    volume.value = String(video.muted ? 0 : video.volume);
    fill(volume);
  };
  for (const event of ["play", "pause", "volumechange"]) video.addEventListener(event, showState);
  document.addEventListener("fullscreenchange", showState);
  video.addEventListener("waiting", () => { if (!ended) say("Waiting for the stream …"); });
  video.addEventListener("playing", () => { tries = 0; if (!ended) say(""); });
  video.addEventListener("loadedmetadata", () => {
    at("radio").hidden = hasPictures && video.videoWidth > 0;
  });

  document.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.altKey || event.metaKey || event.target.closest("select")) return;
    const onButton = event.target.closest("button");
    const onRange = event.target.closest("input");
    const keys = {
      " ": () => (onButton ? false : toggle()),
      k: toggle, m: () => { video.muted = !video.muted; }, f: fullScreen, l: goLive, p: picture,
      ArrowLeft: () => (onRange ? false : step(-10)),
      ArrowRight: () => (onRange ? false : step(10)),
      ArrowUp: () => (onRange ? false : (video.volume = Math.min(1, video.volume + 0.1))),
      ArrowDown: () => (onRange ? false : (video.volume = Math.max(0, video.volume - 0.1))),
      Home: () => { const all = wholeSpan(); if (all && !onRange) seek(all.from); },
      End: () => { if (!onRange) goLive(); },
    };
    const act = keys[event.key.length === 1 ? event.key.toLowerCase() : event.key];
    wake();
    if (act && act() !== false) event.preventDefault();
  });

  let sleeping = 0;
  function wake() {
    stage.classList.remove("idle");
    clearTimeout(sleeping);
    sleeping = setTimeout(() => {
      const busy = stage.querySelector("footer :focus-visible") || !begin.hidden;
      if (!video.paused && !busy) stage.classList.add("idle");
    }, IDLE);
  }
  for (const event of ["pointermove", "pointerdown", "focusin"]) document.addEventListener(event, wake);

  // --- Tracks

  function choices(id, names, chosen, choose) {
    const label = at(id);
    const select = label.querySelector("select");
    label.hidden = names.length < 2;
    select.replaceChildren(...names.map((name, index) => new Option(name, String(index), false, index === chosen)));
    select.onchange = () => choose(Number(select.value));
  }

  function showSounds() {
    choices("sounds", hls.audioTracks.map((track) => track.name), hls.audioTrack, (index) => { hls.audioTrack = index; });
  }

  function showTexts() {
    const names = ["Off", ...hls.subtitleTracks.map((track) => track.name)];
    choices("texts", names, hls.subtitleTrack + 1, (index) => { hls.subtitleTrack = index - 1; });
  }

  // --- What the gateway says

  async function ask() {
    try {
      const said = await (await fetch("status.json" + query, { cache: "no-store" })).json();
      ahead = Date.now() - said.now_ms;
      document.title = said.title;
      at("title").textContent = said.title;
      if (said.has_pictures !== undefined) hasPictures = said.has_pictures;
      oldest = said.oldest_ms ?? null;
      at("all").hidden = !said.several;
      const parts = [];
      if (said.phase === "silent") parts.push("The source gets no media at the moment");
      if (said.peers) parts.push(said.peers === 1 ? "1 neighbour" : `${said.peers} neighbours`);
      if (said.from_viewers_percent != null) parts.push(`${said.from_viewers_percent} % came from other viewers`);
      at("network").textContent = parts.join(" · ");
    } catch {
      at("network").textContent = "The gateway does not answer";
    }
  }

  setInterval(draw, 250);
  setInterval(ask, 5000);
  ask();
  wake();
  showState();
  open();
})();
