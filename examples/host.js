// A main app with pages of its own, which moves between them without loading (the history API), and a twin at its side.
const PAGES = {
  recipes: { title: "Red curry for two", text: "Coconut milk, lemongrass, Thai basil. Thirty minutes." },
  cellar: { title: "The cellar", text: "Three bottles of Vinho Verde, one of Douro, from 2019." },
  market: { title: "Bolhão market", text: "Open until eight. Fish at the back, herbs by the door." },
};
const page = () => new URLSearchParams(location.search).get("page") ?? "recipes";

function show() {
  const { title, text } = PAGES[page()] ?? PAGES.recipes;
  document.getElementById("title").textContent = title;
  document.getElementById("about").textContent = text;
  for (const link of document.querySelectorAll("nav a")) {
    if (new URL(link.href).search === (location.search || "?page=recipes")) link.setAttribute("aria-current", "page");
    else link.removeAttribute("aria-current");
  }
}

addEventListener("popstate", show);
for (const link of document.querySelectorAll("nav a")) {
  link.addEventListener("click", (event) => {
    event.preventDefault();
    history.pushState(null, "", link.href + location.hash);
    show();
  });
}
show();

const twin = TwinChat.mount(document.getElementById("twin"), {
  // Yours asks your server, which signs a token for whoever is signed in: `async () => (await fetch("/token")).text()`.
  getToken: () => new URLSearchParams(location.hash.slice(1)).get("token"),
  // Asked at the start and after every navigation; only what has changed is sent.
  context: () => ({ app: "Pantry", page: page(), title: PAGES[page()]?.title }),
});
