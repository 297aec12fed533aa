"""How the page of app.py looks, and where it shows its messages."""

from __future__ import annotations

STYLE = """
#legend table { border-collapse: collapse; text-align: left; }
#legend :is(table, tr, th, td) { border: none; }
#legend :is(th, td) { padding: .15rem .9rem .15rem 0; }
#legend span { display: inline-block; width: 1rem; height: 1rem; border-radius: 50%; vertical-align: middle; }
#frame img { width: 100%; }
#examples :is(th, td) { max-width: none !important; white-space: normal; text-align: left; }
#examples .textbox div { min-width: 0; width: auto; white-space: pre-line !important; }
:is(#messages, #notice) .html-container { padding: 0 !important; }
#messages:has(#message:empty) { display: none; }
.told [data-testid=toast-body] { display: none !important; }
.told :is(#video, #legend) > [data-testid=status-tracker]:has(.error) { display: none; }
#message { padding: .5rem .75rem; border: 1px solid var(--border-color-primary); border-radius: 4px; }
#message.error {
    border-color: var(--error-border-color); background: var(--error-background-fill); color: var(--error-text-color);
}
"""

MESSAGE = '<div id="message" role="alert"></div>'

# gradio shows a message in a box that lies over the page: an error until it is closed, several of them together, and
# on a phone over half of the page. So each is taken out of its box and put in one place below the buttons. It goes
# away at the next request, or when a video is chosen that plays. The class `told` hides the boxes once something has
# been put in its place; where that does not work, they stay. "Video not playable" is English in any language of the
# browser: gradio 6.31.0 has it as it is in the Video of its templates/frontend/assets.
SCRIPT = """() => {
    const say = (text, kind) => {
        const place = document.querySelector('#message');
        place.textContent = text;
        place.className = kind;
        document.documentElement.classList.add('told');
        if (text) place.scrollIntoView({block: 'nearest'});
    };
    const unplayable = 'this browser cannot play the film; "Segment" also takes films of other kinds';
    new MutationObserver(() => {
        for (const box of document.querySelectorAll('[data-testid=toast-body]')) {
            const text = [...box.querySelectorAll('[data-testid=toast-text]')].at(-1)?.innerText;
            if (!text || box.dataset.said === text) continue;
            box.dataset.said = text;
            if (text === 'Video not playable') say(unplayable, '');
            else say(text, box.classList.contains('error') ? 'error' : '');
            box.querySelector('[data-testid=toast-close]').click();
        }
    }).observe(document.body, {childList: true, subtree: true});
    for (const [event, where] of [['click', '#segment'], ['loadeddata', '#video']])
        document.addEventListener(event, at => at.target.closest(where) && say('', ''), true);
}"""
