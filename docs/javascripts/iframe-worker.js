// A page opened from disk (file://) may not start a web worker, so search would not work there.
// Run the worker's script in a hidden iframe instead.
if (location.protocol === "file:") {
  window.Worker = class extends EventTarget {
    constructor(url) {
      super();
      const iframe = document.createElement("iframe");
      iframe.hidden = true;
      document.body.append(iframe);
      const scope = iframe.contentWindow;
      scope.importScripts = () => {};
      scope.postMessage = (data) => this.dispatchEvent(new MessageEvent("message", { data }));
      const script = scope.document.createElement("script");
      this.loaded = new Promise((resolve) => script.addEventListener("load", resolve));
      script.src = url;
      scope.document.body.append(script);
      this.scope = scope;
    }

    postMessage(data) {
      const { scope } = this;
      this.loaded.then(() => scope.dispatchEvent(new scope.MessageEvent("message", { data })));
    }

    terminate() {
      this.scope.frameElement.remove();
    }
  };
}
