/*
 * A JupyterLab extension: it runs the cells of a notebook of ops when the notebook is opened. In a narrow window it
 * shows one document at a time, without the side bar.
 *
 * A notebook asks for it in its metadata: {"opslib": {"run_on_open": true}}. The notebook must also lie where ops
 * writes notebooks: in the root folder of `ops lab`, or in the folder of an incident. A notebook from elsewhere runs only
 * by its own commands. The file is loaded as it is; there is no build step.
 */
(() => {
  const OURS = /^[^/]+\.ipynb$|(^|\/)incidents\/[^/]+\/[^/]+\.ipynb$/;
  const RUN = "notebook:run-all-cells";
  const NARROW_PX = 700;

  const asks = (panel) => panel.content.model?.getMetadata("opslib")?.run_on_open === true && OURS.test(panel.context.path);

  // A request to a kernel that has not started is lost.
  const idle = (session) =>
    new Promise((done) => {
      const look = () => {
        if (session.session?.kernel?.status === "idle") {
          session.statusChanged.disconnect(look);
          done();
        }
      };
      session.statusChanged.connect(look);
      look();
    });

  const activate = (app) => {
    const seen = new WeakSet();
    const open = async (panel) => {
      if (!panel?.sessionContext || !panel.content?.model || !panel.context || seen.has(panel)) return;
      seen.add(panel);
      await panel.context.ready;
      if (!asks(panel)) return;
      panel.addClass("ops-notebook");
      await panel.sessionContext.ready;
      await idle(panel.sessionContext);
      // The command runs the notebook in front: one that was left meanwhile runs when the person comes back to it.
      if (app.shell.currentWidget !== panel) return void seen.delete(panel);
      const ran = app.commands.execute(RUN);
      panel.content.activeCellIndex = 0; // It would end at the last cell.
      await ran;
      if (panel.content.activeCellIndex === 0) await panel.content.scrollToItem(0, "start");
    };
    void app.restored.then(() => {
      if (window.innerWidth < NARROW_PX) {
        app.shell.mode = "single-document";
        app.shell.collapseLeft();
      }
      app.shell.currentChanged.connect((_, changed) => void open(changed.newValue));
      void open(app.shell.currentWidget);
    });
  };

  const plugin = {
    id: "opslib:run-on-open",
    description: "Runs the cells of the notebooks of ops when they are opened.",
    autoStart: true,
    requires: [],
    activate,
  };
  window._JUPYTERLAB = window._JUPYTERLAB || {};
  window._JUPYTERLAB.opslib = { init: () => undefined, get: () => Promise.resolve(() => ({ __esModule: true, default: plugin })) };
})();
